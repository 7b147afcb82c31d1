// The prompt and the cards of the completions: reading, folding, unveiling.
"use strict";
window.concord = window.concord || {};

window.concord.HARMS = {
  toxic: "Toxic", hateful: "Hateful", sexual: "Sexual", violent: "Violent",
  "personal-data": "Personal data", false: "False", other: "Other harm",
};

window.concord.boardCards = (board) => {
  const { make, text, HARMS } = window.concord;
  const ROLES = { prompt: "Prompt", user: "User", assistant: "Assistant", system: "System" };
  const SIDE_BY_SIDE = 320; // characters, from which on cards stand side by side
  const cards = new Map(); // completion id -> its elements
  const unveiled = new Set();
  let asWritten = false; // whether the texts of this task are shown without their format

  function show(task, written = false) {
    asWritten = written;
    const format = asWritten ? "plain" : task.format;
    const button = board.find('[data-do="written"]');
    button.hidden = task.format === "plain";
    button.setAttribute("aria-pressed", String(asWritten));
    const prompt = board.find(".b-prompt");
    prompt.replaceChildren(...task.prompt.map((turn) => turnOf(turn, format)));
    prompt.classList.toggle("chat", task.prompt.length > 1);
    const long = task.completions.some((each) => each.text.length > SIDE_BY_SIDE || each.text.split("\n").length > 6);
    board.root.classList.toggle("long", long);
    cards.clear();
    for (const completion of task.completions) cards.set(completion.id, cardOf(completion, format));
    board.find(".b-cards").replaceChildren(...[...cards.values()].map((each) => each.card));
  }

  // Formatted or character by character: Markdown hides what an author typed, and a guess at the format can be wrong.
  function toggleWritten() {
    if (board.task.format === "plain") return;
    show(board.task, !asWritten);
    board.focus(board.current);
    board.say(asWritten ? "Texts as they were written." : "Texts with their format.");
  }

  function turnOf({ role, content }, format) {
    const shown = text.shown(content, format);
    const turn = make("div", { class: "b-turn", "data-role": role }, make("h2", { text: ROLES[role] ?? role }), shown);
    if (text.isLong(content)) turn.append(foldable(shown, content, "this turn"));
    return turn;
  }

  function cardOf(completion, format) {
    const { id } = completion, name = board.letter(id);
    const silent = !completion.text.trim(); // nothing to read is said, lest it look like a page half loaded
    const shown = text.shown(silent ? "(says nothing)" : completion.text, silent ? "plain" : format, { id: `b-text-${name}`, class: silent ? "b-silent" : "" });
    const state = make("span", { class: "b-state", "aria-hidden": "true" });
    const numbers = board.ranking.ids.map((_, index) =>
      make("button", { type: "button", tabindex: "-1", "data-number": index + 1, text: String(index + 1), "aria-label": `Place ${name} ${board.ordinal(index + 1)}` }));
    const flag = make("button", { type: "button", class: "b-flag", "data-flag": id, "aria-label": `Flag ${name} as harmful`, title: "Flag as harmful" });
    flag.append(flagIcon());
    const flagged = make("p", { class: "b-flagged", hidden: true });
    const card = make("article", { class: "b-card", role: "group", tabindex: "0", "data-id": id },
      make("div", { class: "b-head" },
        make("span", { class: "b-letter", text: name, title: "Drag to a place", "aria-hidden": "true" }),
        state,
        make("span", { class: "b-numbers", role: "group", "aria-label": `Place of completion ${name}` }, ...numbers),
        flag),
      shown);
    if (text.isLong(completion.text)) card.append(foldable(shown, completion.text, `completion ${name}`));
    const veil = make("div", { class: "b-veil", hidden: true },
      make("p", { text: "This text may be toxic." }),
      make("button", { type: "button", "data-unveil": id }, "Show it ", make("kbd", { text: "b" })));
    card.append(veil, flagged);
    return { completion, card, shown, state, numbers, flag, flagged, veil };
  }

  function flagIcon() {
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    icon.setAttribute("viewBox", "0 0 20 20");
    icon.setAttribute("aria-hidden", "true");
    path.setAttribute("d", "M5 18V3M5 3.5h9.5l-2.2 3.5 2.2 3.5H5");
    icon.append(path);
    return icon;
  }

  function foldable(shown, content, whose) {
    shown.classList.add("folded");
    const button = make("button", { type: "button", class: "b-fold", "data-fold": "", "aria-expanded": "false" });
    button.words = { false: `Show all of ${whose} (${content.length.toLocaleString("en")} characters)`, true: `Fold ${whose}` };
    button.textContent = button.words.false;
    return button;
  }

  function fold(button) {
    const expanded = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(expanded));
    button.textContent = button.words[expanded];
    const shown = button.parentElement.querySelector(".b-text");
    shown.classList.toggle("folded", !expanded);
    if (!expanded) button.parentElement.scrollIntoView({ block: "nearest" });
  }

  function foldCurrent() {
    const button = cards.get(board.current)?.card.querySelector(".b-fold");
    if (button) fold(button);
  }

  const isVeiled = ({ id, toxicity }) =>
    board.me.preferences.blur_toxic && toxicity !== null && toxicity >= board.me.blur_threshold && !unveiled.has(id);

  function unveil(id) {
    if (unveiled.has(id)) unveiled.delete(id); else unveiled.add(id);
    board.update();
    board.focus(id);
  }

  function update() {
    for (const [id, each] of cards) {
      const name = board.letter(id), at = board.ranking.places.get(id), harms = board.ranking.flags.get(id) ?? [];
      const tied = at !== undefined && board.ranking.at(at).length > 1;
      const words = at === undefined ? "not ranked" : `${tied ? "tied " : ""}${board.ordinal(at)}`;
      const named = harms.map((harm) => HARMS[harm] ?? harm).join(", ");
      const veiled = isVeiled(each.completion);
      each.card.classList.toggle("ranked", at !== undefined);
      each.card.classList.toggle("current", id === board.current);
      each.card.classList.toggle("veiled", veiled);
      each.card.setAttribute("aria-label", `Completion ${name}, ${words}${named ? `, flagged: ${named}` : ""}${veiled ? ", veiled: it may be toxic" : ""}`);
      each.shown.inert = veiled;
      // A screen reader reads a short text with its card; a long or veiled one only when it is gone to.
      if (veiled || text.isLong(each.completion.text)) each.card.removeAttribute("aria-describedby"); else each.card.setAttribute("aria-describedby", each.shown.id);
      each.veil.hidden = !veiled;
      each.state.textContent = words;
      each.flag.setAttribute("aria-pressed", String(harms.length > 0));
      each.flagged.hidden = !named;
      each.flagged.textContent = named;
      for (const button of each.numbers) button.setAttribute("aria-pressed", String(Number(button.dataset.number) === at));
    }
  }

  // What a chip of the rail may show of a completion.
  function excerpt(id) {
    const completion = cards.get(id)?.completion;
    return !completion ? "" : isVeiled(completion) ? "veiled" : text.excerpt(completion.text);
  }

  const element = (id) => cards.get(id)?.card;

  // The neighbour of a card, in reading order.
  function beside(id, step) {
    const ids = board.ranking.ids;
    return ids[ids.indexOf(id) + step] ?? id;
  }

  return { show, update, toggleWritten, fold, foldCurrent, unveil, excerpt, element, beside };
};
