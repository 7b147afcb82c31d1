// The questions the board asks in a dialog: harm flags, why a task cannot be judged, two versions of a draft, and what
// practice says.
"use strict";
window.concord = window.concord || {};

window.concord.boardDialogs = (board) => {
  const { make, HARMS } = window.concord;
  const { part } = board;
  const REASONS = [
    "I do not know the language",
    "I lack the knowledge to judge it",
    "The prompt makes no sense",
    "A completion is broken or cut off",
    "I would rather not read this",
    "Another reason",
  ];

  const choice = (type, name, value, words, number) =>
    make("label", {}, make("input", { type, name, value }), make("span", { text: words }), make("kbd", { text: String(number) }));

  part("harms").replaceChildren(...Object.entries(HARMS).map(([harm, words], index) => choice("checkbox", "harm", harm, words, index + 1)));
  part("reasons").replaceChildren(...REASONS.map((words, index) => choice("radio", "reason", words, words, index + 1)));

  // In a list of choices a digit is the choice of that number, and Enter is done.
  for (const dialog of [part("flags"), part("skip")]) {
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("textarea")) return;
      const input = /^[1-9]$/.test(event.key) ? dialog.querySelectorAll(".b-choices input")[Number(event.key) - 1] : null;
      if (input) { input.click(); input.focus(); event.preventDefault(); }
      else if (event.key === "Enter" && event.target.matches("input")) { dialog.querySelector("form button:not([type])").click(); event.preventDefault(); }
    });
  }

  // Harm flags. They count as soon as they are set, whatever way the dialog is closed. (Its "close" event would be too
  // late: it comes after the keys that a quick labeler presses next.)
  let flagging = null;

  function flags(id) {
    flagging = id;
    const set = board.ranking.flags.get(id) ?? [];
    part("flags-letter").textContent = board.letter(id);
    for (const input of part("harms").querySelectorAll("input")) input.checked = set.includes(input.value);
    part("flags").showModal();
  }

  part("harms").addEventListener("change", () => {
    if (!board.ranking?.ids.includes(flagging)) return;
    const harms = [...part("harms").querySelectorAll("input:checked")].map((input) => input.value);
    board.ranking.flag(flagging, harms);
    board.changed();
    board.say(`${board.letter(flagging)} ${harms.length ? `flagged: ${harms.map((harm) => HARMS[harm]).join(", ")}` : "no longer flagged"}.`);
  });

  // Cannot judge
  const reason = () => part("skip-form").querySelector("input:checked")?.value ?? "";
  const words = () => part("skip-words").value.trim();

  function skip() {
    part("skip-form").reset();
    checkSkip();
    part("skip").returnValue = "";
    part("skip").showModal();
  }

  const checkSkip = () => { part("skip-send").disabled = !reason() || (reason() === REASONS.at(-1) && !words()); };
  part("skip").addEventListener("input", checkSkip);
  part("skip-send").addEventListener("click", () => { part("skip").returnValue = "send"; });
  part("skip-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const own = reason() === REASONS.at(-1);
    part("skip").close();
    board.sendSkip((own ? words() : [reason(), words()].filter(Boolean).join(": ")).slice(0, 500));
  });

  // Two versions of a draft
  function conflict(theirs, mine) {
    part("theirs").replaceChildren(...summary(theirs));
    part("mine").replaceChildren(...summary(mine));
    for (const dialog of board.root.querySelectorAll("dialog[open]")) if (dialog !== part("conflict")) dialog.close();
    if (!part("conflict").open) part("conflict").showModal();
  }

  part("conflict").addEventListener("cancel", (event) => event.preventDefault()); // it wants an answer

  function summary(draft) {
    const places = Object.entries(draft?.ranks ?? {}).sort(([, a], [, b]) => a - b);
    const order = places.map(([id, place], index) => (index === 0 ? "" : places[index - 1][1] === place ? " = " : ", then ") + board.letter(id)).join("");
    const lines = [order ? `Order: ${order}` : "Nothing is ranked"];
    if (draft?.none_acceptable) lines.push("None is acceptable");
    for (const [id, harms] of Object.entries(draft?.flags ?? {})) lines.push(`${board.letter(id)}: ${harms.map((harm) => HARMS[harm] ?? harm).join(", ")}`);
    if (draft?.confidence) lines.push(`Sure: ${draft.confidence} of 5`);
    if (draft?.rationale) lines.push(`“${draft.rationale.slice(0, 160)}”`);
    return lines.map((line) => make("li", { text: line, dir: "auto" }));
  }

  // What practice says about an answer; resolves when the labeler has read it.
  function feedback({ correct, agreement, expected, explanation, done, total, right, needed, passed }, ranks) {
    part("feedback-title").textContent = correct ? "That is what was expected" : "Not quite what was expected";
    part("feedback").classList.toggle("good", correct);
    part("feedback-text").textContent = explanation || "";
    part("feedback-rows").replaceChildren(...Object.keys(expected).sort((a, b) => expected[a] - expected[b]).map((id) =>
      make("tr", { class: ranks[id] === expected[id] ? "same" : "differs" },
        make("th", { scope: "row" }, make("b", { text: board.letter(id) }), make("span", { text: board.cards.excerpt(id), dir: "auto" })),
        make("td", { text: board.ordinal(ranks[id]) }), make("td", { text: board.ordinal(expected[id]) }))));
    const how = `${Math.round(100 * agreement)}% of the pairs agree.`;
    const standing = done < total ? `Practice ${done} of ${total}.` : passed ? "Practice is over, and you have passed. What follows counts." : `This round is over: ${right} right, ${needed} needed.`;
    part("feedback-standing").textContent = `${how} ${standing}`;
    board.say(part("feedback-title").textContent);
    return new Promise((resolve) => {
      part("feedback").addEventListener("close", resolve, { once: true });
      part("feedback").showModal();
    });
  }

  return { flags, skip, conflict, feedback };
};
