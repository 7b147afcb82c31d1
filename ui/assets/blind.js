// The blind comparison: shows a pair, sends the choice. Texts become text nodes, never markup.
"use strict";
window.concord = window.concord || {};

window.concord.blind = (element) => {
  const root = element.querySelector(".p");
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const KEYS = { 1: "left", 2: "tie", 3: "right" }; // no arrows: they scroll, and a judgement is final
  let pair = null, busy = false, shownAt = 0, judged = 0;

  async function send(path, body) {
    if (busy) return;
    busy = true;
    update();
    try {
      const { pair: next } = await window.concord.post(path, body);
      if (body) judged += 1;
      open(next);
      part("notice").hidden = true;
    } catch (error) {
      const refused = error.status === 409 && body, before = pair?.pair;
      if (refused) open((await window.concord.post("/api/blind/next").catch(() => ({ pair }))).pair);
      part("notice").textContent = refused ? `${error.message}${pair && pair.pair !== before ? " This is the next pair." : ""}`
        : error.status === 0 && body ? `${error.message} Your choice may not be stored; choose again.` : error.message;
      part("notice").hidden = false;
      part("done").hidden = Boolean(pair);
    } finally {
      busy = false;
      update();
    }
  }

  function open(next) {
    pair = next;
    shownAt = performance.now();
    root.dataset.state = pair ? "work" : "done";
    part("work").hidden = !pair;
    part("done").hidden = Boolean(pair);
    for (const side of root.querySelectorAll(".p-side")) side.classList.remove("open");
    if (!pair) {
      part("progress").textContent = "";
      part("done-title").textContent = judged ? "All pairs compared. Thank you!" : "Nothing to compare.";
      part("done-title").focus();
      return;
    }
    for (const name of ["prompt", "left", "right"]) part(name).replaceChildren(window.concord.text.plain(pair[name]));
    for (const name of ["left", "right"]) if (!pair[name].trim()) part(name).textContent = "(says nothing)";
    part("progress").textContent = `${pair.number} of ${pair.total}`;
    part("live").textContent = `Pair ${pair.number} of ${pair.total}`;
    window.scrollTo({ top: 0 });
  }

  function update() {
    for (const button of root.querySelectorAll("[data-choice]")) button.disabled = busy || !pair;
  }

  function choose(choice) {
    if (!pair || busy) return;
    const seconds = Math.min((performance.now() - shownAt) / 1000, 86400);
    send("/api/blind/answers", { round: pair.round, pair: pair.pair, choice, seconds });
  }

  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-choice]");
    if (button) choose(button.dataset.choice);
    else if (event.target.closest('[data-part="look"]')) send("/api/blind/next");
    else event.target.closest(".p-side")?.classList.add("open");
  });
  part("clear").addEventListener("change", (event) => root.classList.toggle("clear", event.target.checked));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const choice = KEYS[event.key];
    if (!choice || event.target.closest("input:not([type=checkbox]), textarea, select")) return;
    event.preventDefault();
    choose(choice);
  });
  send("/api/blind/next");
};
