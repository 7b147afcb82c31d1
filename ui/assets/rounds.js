// The round: its steps, the one next thing to do, what the others do next, and what came out of all rounds.
"use strict";
window.concord = window.concord || {};

window.concord.roundStrip = (element) => {
  const { make } = window.concord;
  const STARTED_HERE = ["sample", "consensus", "reward", "ppo", "evaluate"];
  const WAITS = { now: "next", waiting: "waits", done: "done" };
  const OTHERS = { labeler: "Labelers", reviewer: "Reviewers" };
  const PICTURES = { toxicity: "Toxicity over rounds", agreement: "Agreement of the labelers over rounds" };
  const COLUMNS = { toxicity_before: "Toxicity before", toxicity_after: "after", alpha: "Labelers' alpha", agreement: "With the consensus" };
  const now = make("div");
  const pictures = Object.fromEntries(Object.entries(PICTURES).map(([name, title]) => [name, make("img", { alt: `${title}: the table below has the figures`, "data-picture": name })]));
  const table = make("div", { class: "r-figures", tabindex: "0", role: "region", "aria-label": "Figures of all rounds" });
  const past = make("div", { class: "r-past", hidden: true },
    make("div", { class: "r-pictures" }, ...Object.entries(pictures).map(([name, image]) => make("figure", {}, make("figcaption", { text: PICTURES[name] }), image))), table);
  element.append(now, past);
  let shown = "";

  const figure = (value) => (value === null ? "–" : value.low === null ? value.mean.toFixed(3) : `${value.mean.toFixed(3)} (${value.low.toFixed(3)} to ${value.high.toFixed(3)})`);

  function step({ title, state, detail, name }) {
    const start = state === "now" && !detail && STARTED_HERE.includes(name);
    return make("li", { class: state }, make("b", { text: title }), make("span", { class: "soft", text: detail || WAITS[state] }), start ? make("button", { text: "Start", "data-open": name, "aria-label": `Start: ${title}` }) : "");
  }

  function figures(rounds) {
    const measured = rounds.some((one) => Object.keys(COLUMNS).some((key) => one[key] !== null));
    past.hidden = !measured;
    if (!measured) return;
    for (const [name, image] of Object.entries(pictures)) image.src = `/api/runs/rounds/${name}.svg?at=${Date.now()}`;
    table.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...["Round", ...Object.values(COLUMNS), "Verdict"].map((text) => make("th", { text, scope: "col" })))),
      make("tbody", {}, ...rounds.map((one) => make("tr", {}, make("th", { scope: "row", text: String(one.number) }),
        ...Object.keys(COLUMNS).map((key) => make("td", { class: "num", text: figure(one[key]) })), make("td", { text: one.verdict ?? "–" }))))));
  }

  // Built anew only where something has changed: whoever is about to press a button keeps it.
  return ({ rounds, next }) => {
    const told = JSON.stringify([rounds, next]);
    if (told === shown) return;
    shown = told;
    const last = rounds.at(-1);
    now.replaceChildren(make("div", { class: "r-bar" }, make("h2", { text: last ? `Round ${last.number}` : "No round yet" }), make("p", { class: "r-next", text: next.engineer })),
      make("ol", { class: "r-steps" }, ...(last?.steps ?? []).map(step)),
      make("dl", { class: "r-others" }, ...Object.entries(OTHERS).map(([role, name]) => make("div", {}, make("dt", { text: name }), make("dd", { text: next[role] })))));
    figures(rounds);
  };
};
