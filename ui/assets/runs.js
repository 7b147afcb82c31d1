// The control room: where the round stands, the list of runs, the chosen run, and runs beside each other.
"use strict";
window.concord = window.concord || {};

window.concord.runs = (element) => {
  const { make } = window.concord;
  const root = element.querySelector(".r");
  const LOOK_SECONDS = 1.5;
  const ASK = { "stop-now": "Stop at once, without a checkpoint? What was done since the last checkpoint is lost.", delete: "Move the run's files to the workspace's bin and hide the run?", promote: "Make this the current policy? The next round samples from it.", "promote-best": "Make the best policy of this run, by the held-out prompts, the current one? The next round samples from it." };
  let chosen = new URLSearchParams(location.search).get("run"), all = [], tag = null, everything = false;
  const ticked = new Set();

  const round = make("section", { class: "r-round box" });
  const strip = window.concord.roundStrip(round);
  const table = make("tbody");
  const notice = make("p", { class: "r-notice", role: "status", "aria-live": "polite", hidden: true });
  const compareButton = make("button", { text: "Compare", disabled: true });
  const allBox = make("input", { type: "checkbox" });
  const compared = make("section", { class: "r-compared box", hidden: true });
  const view = window.concord.runView(act);
  const form = window.concord.runForm((run_id) => { choose(run_id); });
  const list = make("section", { class: "r-list box" },
    make("div", { class: "r-bar" }, make("h2", { text: "Runs" }), make("label", { class: "soft" }, allBox, " deleted ones too"), compareButton, make("button", { class: "r-primary", text: "Start a run", "data-open": "round" })),
    make("table", { class: "r-table" }, make("thead", {}, make("tr", {}, ...["", "Run", "State", "Started", "What came out"].map((text) => make("th", { text })))), table));
  root.replaceChildren(round, notice, make("div", { class: "r-main" }, list, view.element), compared, form.element);
  view.show(null);

  async function look() {
    if (!document.hidden) {
      try {
        const response = await fetch(`/api/runs/live${chosen ? `?${new URLSearchParams({ run: chosen, ...view.ends(chosen) })}` : ""}`, { credentials: "same-origin", cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
        if (response.status === 200) { tag = response.headers.get("ETag"); show(await response.json()); say(null, "offline"); }
        else if (response.status === 404) { say(`There is no run ${chosen}; this is the newest one.`); chosen = null; tag = null; }
        else if (response.status !== 304) throw new Error();
      } catch { say("The server cannot be reached. Runs go on; this page finds them again.", "offline"); }
    }
    setTimeout(look, LOOK_SECONDS * 1000);
  }

  function show(found) {
    all = found.runs;
    if (!chosen && all.length) { chosen = all[0].run_id; tag = null; }
    rows(found.current_policy, found.queue);
    strip(found);
    if (found.run?.run_id === chosen) view.show(found.run, found.more);
  }

  const figures = ({ outcome, status, message, progress }) => {
    const { readable, duration } = window.concord.runWords;
    if (progress && ["running", "starting"].includes(status)) {
      const left = progress.seconds_left === null ? "" : `, ${duration(progress.seconds_left)} left`;
      return make("span", {}, make("progress", { max: progress.total, value: progress.done, "aria-label": progress.label }), ` ${progress.label} ${progress.done}/${progress.total}${left}`);
    }
    if (status === "failed") return make("span", { class: "soft", text: (message ?? "").split("\n")[0].slice(0, 110) });
    const shown = Object.entries(outcome).filter(([key, value]) => !["run_id", "stage", "status"].includes(key) && value !== null && value !== undefined).slice(0, 4);
    return make("span", { class: "metrics" }, ...shown.map(([key, value]) => make("span", { class: "num" }, make("span", { class: "soft", text: `${key.replaceAll("_", " ")} ` }), readable(value?.mean ?? value))));
  };

  function rows(policy, queue) {
    const shown = all.filter((run) => everything || !run.deleted);
    for (const id of ticked) if (!shown.some((run) => run.run_id === id)) ticked.delete(id);
    compareButton.disabled = ticked.size < 2;
    window.concord.renew(table, ...shown.map((run) => {
      const tick = make("input", { type: "checkbox", "aria-label": `Compare ${run.run_id}`, "data-tick": run.run_id });
      tick.checked = ticked.has(run.run_id);
      return make("tr", { class: run.run_id === chosen ? "chosen" : "", "data-run": run.run_id }, make("td", {}, tick),
        make("td", {}, make("a", { href: `?run=${encodeURIComponent(run.run_id)}`, text: run.run_id }), ...run.tags.map((text) => make("span", { class: "tag", text })), run.run_id === policy ? make("span", { class: "tag good", text: "current policy" }) : ""),
        make("td", {}, window.concord.runWords.status(run.deleted ? "deleted" : run.status), queue.length > 1 && queue.includes(run.run_id) ? make("span", { class: "soft", text: ` ${queue.indexOf(run.run_id) + 1} of ${queue.length}` }) : ""), make("td", { class: "num soft", text: new Date(run.started).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) }), make("td", {}, figures(run)));
    }));
    if (!shown.length) window.concord.renew(table, make("tr", {}, make("td", { colspan: 5, class: "empty", text: "No run yet. Start one, or use `concord runs start`." })));
  }

  async function act(run, name, text = "") {
    if (ASK[name] && !window.confirm(ASK[name])) return;
    try {
      const { message } = await window.concord.post(`/api/runs/${encodeURIComponent(run.run_id)}/${name}`, { text });
      if (name === "clone") { say(`Cloned as ${message}.`); choose(message); } else say(message);
      return true;
    } catch (error) {
      say(error.message);
      return false;
    } finally { tag = null; }
  }

  let said = null;
  function say(text, kind = "word") {
    if (!text && said !== kind) return;
    said = text ? kind : null;
    notice.textContent = text ?? "";
    notice.hidden = !text;
    if (text && kind === "word") setTimeout(() => { if (notice.textContent === text) say(null); }, 6000);
  }

  function choose(run_id) {
    chosen = run_id;
    tag = null;
    const there = `?run=${encodeURIComponent(run_id)}`;
    if (location.search !== there) history.pushState(null, "", there);
  }
  window.addEventListener("popstate", () => { chosen = new URLSearchParams(location.search).get("run"); tag = null; });

  async function compare() {
    const ids = [...ticked];
    const asked = `ids=${ids.map(encodeURIComponent).join(",")}`;
    let found;
    try { found = await window.concord.get(`/api/runs/compare?${asked}`); } catch (error) { return say(error.message); }
    const { readable } = window.concord.runWords;
    const keys = [...new Set(found.outcomes.flatMap(Object.keys))].filter((key) => key !== "run_id");
    const line = (name, values, className = "") => make("tr", { class: className }, make("th", { scope: "row", text: name.replaceAll("_", " ") }), ...values.map((value) =>
      make("td", { class: "value", text: value && typeof value === "object" && "mean" in value ? `${readable(value.mean)} (${readable(value.low)} to ${readable(value.high)})` : readable(value) })));
    const chart = make("div");
    const overlay = make("div", { class: "r-curves" });
    const saves = [make("a", { text: "CSV", download: "runs.csv", href: `/api/runs/compare.csv?${asked}` }), make("a", { text: "JSON", download: "runs.json", href: `/api/runs/compare?${asked}` })];
    compared.replaceChildren(make("div", { class: "r-bar" }, make("h2", { text: `${ids.length} runs beside each other` }), make("span", {}, "Save as ", saves[0], " or ", saves[1]), make("button", { text: "Close", "data-close": true })),
      make("table", {}, make("thead", {}, make("tr", {}, make("th"), ...found.runs.map((text) => make("th", { text })))),
        make("tbody", {}, ...keys.map((key) => line(key, found.outcomes.map((row) => row[key]))),
          ...Object.entries(found.differences).map(([key, values]) => line(key, values, "r-differs")))), chart, overlay);
    compared.hidden = false;
    window.concord.pareto(chart, found.outcomes.map((row) => ({ name: row.run_id, x: row.kl, y: row.toxicity_after?.mean })));
    window.concord.overlay(overlay, ids);
    compared.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  root.addEventListener("click", (event) => {
    const button = event.target.closest("button, a, tr, input");
    if (!button) return;
    const row = event.target.closest("[data-run]");
    if (button === compareButton) compare();
    else if (button.dataset.close) compared.hidden = true;
    else if (button.dataset.open) form.open(button.dataset.open);
    else if (row && !event.target.closest("input") && !event.ctrlKey && !event.metaKey) { event.preventDefault(); choose(row.dataset.run); }
  });
  root.addEventListener("change", (event) => {
    if (event.target === allBox) { everything = allBox.checked; tag = null; }
    const id = event.target.dataset.tick;
    if (id) { if (event.target.checked) ticked.add(id); else ticked.delete(id); compareButton.disabled = ticked.size < 2; }
  });
  look();
};
