// Mouse, finger, and what is written: which part of the page does what.
"use strict";
window.concord = window.concord || {};

window.concord.boardClicks = (board) => {
  const { part, root } = board;

  const actions = {
    submit: () => board.submit(), undo: () => board.undo(), skip: () => board.skip(), more: () => board.toggleMore(),
    none(_button, event) {
      board.toggleNone();
      if (event.detail) board.refocus(); // a click, not a key: the next Enter is to submit, not to press the button again
    },
    written: () => board.cards.toggleWritten(),
    help: () => part("help").showModal(),
    guidelines: () => board.guide.toggle(),
    answers: () => board.answers.open(),
    settings: () => board.guide.settings(),
    retry: () => board.outbox.waiting.now(),
    dismiss: () => board.notice(null),
    look: () => board.load({ quiet: true }),
    rest: () => board.pace.rest(),
    later: () => board.pace.later(),
    close: (button) => button.closest("dialog").close(),
    read: () => board.readMessage(),
    leave: () => board.leave(),
    "take-theirs": () => { part("conflict").close(); board.adopt(board.drafts.takeTheirs(), "The other device's version is here."); },
    "keep-mine": () => { part("conflict").close(); board.drafts.keepMine(); board.say("Your version stands.", { show: true }); },
  };

  function clicked(event) {
    const { target } = event, button = target.closest("[data-do]");
    if (button) return void actions[button.dataset.do](button, event);
    if (target.matches("dialog") && target !== part("conflict")) return void target.close(); // its backdrop
    if (!board.ranking || target.closest("dialog")) return;
    const at = (name) => target.closest(`[data-${name}]`)?.dataset[name];
    const shown = target.closest(".b-card")?.dataset.id, place = at("here") ?? target.closest(".b-place")?.dataset.place;
    if (at("number")) board.putAt(shown, Number(at("number")));
    else if (at("flag")) {
      if (event.detail) board.focus(at("flag")); // where the focus comes back to
      board.flags(at("flag"));
    }
    else if (at("unveil")) board.cards.unveil(at("unveil"));
    else if (target.closest("[data-fold]")) board.cards.fold(target.closest("[data-fold]"));
    else if (at("chip")) board.focus(at("chip"), { scroll: true });
    else if (place) board.putAt(board.current, Number(place));
    else if (shown && window.getSelection()?.isCollapsed !== false) board.focus(shown);
  }

  root.addEventListener("click", clicked);
  root.addEventListener("click", ({ target }) => { // the same confidence again takes it back
    if (target.name !== "b-confidence" || board.busy || Number(target.value) !== board.ranking?.confidence) return;
    target.checked = false;
    board.ranking.confidence = null;
    board.changed();
  });
  root.addEventListener("focusin", (event) => {
    const id = event.target.closest(".b-card")?.dataset.id;
    if (id && board.ranking && id !== board.current) { board.current = id; board.update(); }
  });
  root.addEventListener("input", (event) => {
    if (!board.ranking || board.busy) return;
    if (event.target === part("rationale")) board.ranking.rationale = event.target.value;
    else if (event.target.name === "b-confidence") board.ranking.confidence = Number(event.target.value);
    else return;
    board.changed();
  });
};
