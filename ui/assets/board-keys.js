// The keys of the board, and the list of them that `?` shows: one table for both.
"use strict";
window.concord = window.concord || {};

window.concord.boardKeys = (board) => {
  const { make } = window.concord;
  const { root } = board;

  const arrow = (key) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (step) board.move(board.current, step);
    else board.focus(board.cards.beside(board.current, key === "ArrowLeft" ? -1 : 1), { scroll: true });
  };

  // `any`: works without an open task. `named`: not a key of one character, so the setting leaves it alone.
  const KEYS = [
    { shown: ["1", "…", "9"], words: "put the completion in focus in that place; the same place twice is a tie", keys: [], run: null },
    { shown: ["Shift", "+", "1", "…", "9"], words: "squeeze it in there; the others move on", keys: [], run: null },
    { shown: ["↑", "↓"], words: "move it up or down the ranking", keys: ["ArrowUp", "ArrowDown"], run: arrow, named: true },
    { shown: ["←", "→"], words: "go to the completion before or after", keys: ["ArrowLeft", "ArrowRight"], run: arrow, named: true },
    { shown: ["="], words: "tie it with the one ranked above it", keys: ["="], run: () => board.tie(board.current) },
    { shown: ["Backspace"], words: "take it out of the ranking", keys: ["Backspace", "Delete"], run: () => board.takeOut(board.current, { scroll: true }), named: true },
    { shown: ["u"], words: "undo; on an untouched task, take the last answer back", keys: ["u"], run: () => board.undo(), any: true },
    { shown: ["Enter"], words: "submit, once every completion has a place", keys: ["Enter"], run: (_key, event) => { if (!event.repeat) board.submit(); }, named: true },
    { shown: ["n"], words: "none of them is acceptable", keys: ["n"], run: () => board.toggleNone() },
    { shown: ["s"], words: "cannot judge: skip with a reason", keys: ["s"], run: () => board.skip() },
    { shown: ["f"], words: "flag the completion in focus as harmful", keys: ["f"], run: () => board.flags(board.current) },
    { shown: ["b"], words: "show a blurred text, or blur it again", keys: ["b"], run: () => board.cards.unveil(board.current) },
    { shown: ["o"], words: "unfold or fold a long text", keys: ["o"], run: () => board.cards.foldCurrent() },
    { shown: ["m"], words: "show texts as written, without their format", keys: ["m"], run: () => board.cards.toggleWritten() },
    { shown: ["w"], words: "write why; Esc leads back", keys: ["w"], run: () => board.write() },
    { shown: ["g"], words: "the guidelines", keys: ["g"], run: () => board.guide.toggle(), any: true },
    { shown: ["a"], words: "my answers, and what I skipped", keys: ["a"], run: () => board.answers.open(), any: true },
    { shown: ["?"], words: "this list", keys: ["?"], run: () => board.part("help").showModal(), any: true },
  ];

  board.part("keys").replaceChildren(...KEYS.map(({ shown, words }) =>
    make("div", {}, make("dt", {}, ...shown.map((key) => (["…", "+"].includes(key) ? ` ${key} ` : make("kbd", { text: key })))), make("dd", { text: words }))));

  function digitOf(event) {
    if (/^[1-9]$/.test(event.key)) return { number: Number(event.key), squeeze: false };
    // Shift on most layouts; on those where digits need Shift, the bare key.
    const code = /^Digit([1-9])$/.exec(event.code);
    return code && event.key.length === 1 ? { number: Number(code[1]), squeeze: event.shiftKey } : null;
  }

  function pressed(event) {
    const entry = KEYS.find((each) => each.keys.includes(event.key));
    const ready = board.ranking && root.dataset.state === "work";
    const allowed = board.me?.preferences.shortcuts !== false;
    if (entry) {
      if (!(entry.any || ready) || !(entry.named || allowed)) return false;
      entry.run(event.key, event);
      return true;
    }
    const digit = ready && allowed ? digitOf(event) : null;
    if (!digit || event.repeat || digit.number > board.ranking.size) return false;
    if (digit.squeeze) board.squeezeIn(board.current, digit.number, { scroll: true });
    else board.putAt(board.current, digit.number, { scroll: true });
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented) return; // the Enter that closed a dialog, say, does not submit as well
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || root.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.closest?.("textarea, select, [contenteditable], input:not([type=radio])")) {
      if (event.key === "Escape") board.refocus();
      return;
    }
    // Controls keep the keys that work them.
    const own = target.closest?.("a, summary, button:not([data-number])") ? ["Enter"] : target.matches?.("input") ? ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"] : target.closest?.(".b-panel") ? ["ArrowUp", "ArrowDown"] : [];
    if (own.includes(event.key)) return;
    if (pressed(event)) event.preventDefault();
  });
};
