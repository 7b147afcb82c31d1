// One run: where it is, what it warns of, its curves, samples side by side, its log, and what can be done with it.
"use strict";
window.concord = window.concord || {};

window.concord.runView = (act) => {
  const { make, renew } = window.concord;
  const element = make("section", { class: "r-view", "aria-label": "The chosen run" });
  const parts = {}, unsaved = {}; // run id -> the note that is being written
  for (const name of ["head", "progress", "message", "warnings", "tabs", "curves", "samples", "log", "facts", "notes"]) parts[name] = make("div", { class: `r-${name}` });
  const logText = make("pre", { class: "r-logtext", tabindex: "0", "aria-label": "Log" });
  parts.log.append(logText);
  const noteText = make("textarea", { rows: 2, maxlength: 4000, "aria-label": "Note" });
  const noteList = make("div");
  parts.notes.append(noteText, make("div", { class: "r-buttons" },
    make("button", { text: "Keep note", "data-note": "note" }), make("button", { text: "Add as tag", "data-note": "tag" }), make("button", { text: "Take tag off", "data-note": "untag" })), noteList);
  const TABS = { curves: "Curves", samples: "Samples", log: "Log", facts: "Figures and configuration", notes: "Notes" };
  let wanted = "curves", tab = wanted, run = null, draw = null, records = {}, logEnd = null, busy = false;

  element.append(parts.head, parts.progress, parts.message, parts.warnings, parts.tabs, ...Object.keys(TABS).map((name) => parts[name]));
  parts.tabs.setAttribute("role", "tablist");
  parts.tabs.append(...Object.entries(TABS).map(([name, text]) => make("button", { role: "tab", "data-tab": name, "aria-controls": `r-tab-${name}`, text })));
  for (const name of Object.keys(TABS)) { parts[name].id = `r-tab-${name}`; parts[name].setAttribute("role", "tabpanel"); parts[name].setAttribute("aria-label", TABS[name]); }

  const status = (word) => make("span", { class: `tag ${{ running: "live", starting: "live", finished: "good", failed: "bad", stopped: "warn" }[word] ?? ""}`, text: word });
  const duration = (seconds) => (seconds >= 3600 ? `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min` : seconds >= 60 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`);
  const readable = (value) => (value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(5))) : typeof value === "object" ? JSON.stringify(value) : String(value));
  window.concord.runWords = { status, duration, readable };

  const trains = () => ["reward", "ppo"].includes(run.stage);

  // How much of a run's files is here already.
  const ends = (run_id) => (run_id === run?.run_id ? Object.fromEntries(Object.entries(records).map(([name, { end }]) => [name, end])) : {});

  // Show a run as /api/runs/live tells it, with what was added to its files; another run than before starts afresh.
  function show(next, more = {}) {
    const fresh = next?.run_id !== run?.run_id, had = run?.run_id;
    run = next;
    element.hidden = !run;
    if (!run) return;
    if (fresh) {
      records = { metrics: { rows: [], end: 0 }, samples: { rows: [], end: 0 }, warnings: { rows: [], end: 0 } };
      logEnd = null;
      logText.textContent = "";
      parts.curves.replaceChildren();
      parts.samples.replaceChildren();
      draw = window.concord.curves(parts.curves);
      if (had) unsaved[had] = noteText.value;
      noteText.value = unsaved[run.run_id] ?? "";
    }
    if (!busy) for (const [name, added] of Object.entries(more)) take(name, added);
    head();
    facts();
    notes();
    pick(trains() || !["curves", "samples"].includes(wanted) ? wanted : run.status === "finished" ? "facts" : "log"); // only training draws curves
    follow();
  }

  function head() {
    const can = { queued: ["first", "stop"], starting: ["stop-now"], running: ["stop", "stop-now"], finished: ["clone", "delete"], stopped: ["resume", "clone", "delete"], failed: ["resume", "clone", "delete"] }[run.status] ?? [];
    const trained = trains();
    const words = { stop: trained && run.status === "running" ? "Stop after a checkpoint" : "Stop", "stop-now": "Stop at once", first: "Move to the front", resume: "Resume", clone: "Clone", delete: "Delete", promote: "Promote to current policy", "promote-best": "Promote its best policy" };
    const acts = can.filter((name) => name !== "resume" || trained);
    if (run.stage === "ppo" && run.status === "finished") acts.unshift("promote", ...(run.metrics.best_iteration ? ["promote-best"] : []));
    const gone = run.marks.filter(({ kind }) => ["delete", "restore"].includes(kind)).at(-1)?.kind === "delete";
    const buttons = gone ? [make("button", { text: "Restore", "data-act": "restore" })] : acts.map((name) => make("button", { text: words[name], "data-act": name, class: name === "promote" ? "r-primary" : "" }));
    const links = [];
    if (run.report) links.push(make("a", { href: `/reports/${run.run_id}`, text: "Report", target: "_blank" }));
    if (run.evaluation) links.push(make("a", { href: `/review/?run=${run.evaluation}`, text: "Its verdict page" }));
    renew(parts.head, make("h1", { text: run.run_id }),
      make("p", { class: "soft" }, status(run.status), ` ${run.stage}${run.asked_by ? `, asked for by ${run.asked_by}` : ""} `, ...links.flatMap((link) => [link, " "])),
      make("div", { class: "r-buttons" }, ...buttons));
    const at = run.progress, active = ["running", "starting"].includes(run.status);
    parts.progress.hidden = !(active && at);
    if (active && at) {
      const left = at.seconds_left === null ? "" : `, about ${duration(at.seconds_left)} left`;
      renew(parts.progress, make("p", { text: `${at.label}: ${at.done} of ${at.total}${left}${at.note ? `. ${at.note}` : ""}` }),
        make("progress", { max: at.total, value: at.done, "aria-label": at.label }));
    }
    const ended = ["finished", "stopped"].includes(run.status); // a resumed run still has the reason of last time
    const message = run.message || (ended && run.metrics.stop_reason ? `It ended for this reason: ${run.metrics.stop_reason}.` : "");
    parts.message.hidden = !message;
    parts.message.className = `r-message ${run.status === "failed" ? "message" : "soft"}`;
    parts.message.textContent = message;
  }

  function facts() {
    const table = (title, values) => {
      const rows = Object.entries(values ?? {});
      return rows.length ? make("div", { class: "box" }, make("h2", { text: title }), make("table", {}, ...rows.map(([key, value]) =>
        make("tr", {}, make("th", { scope: "row", text: key }), make("td", { class: "value", text: readable(value) }))))) : "";
    };
    renew(parts.facts, make("div", { class: "columns" }, ...[table("Figures", run.metrics), table("Configuration", run.config), table("Read", run.inputs), table("Versions", run.versions)].filter(Boolean)));
  }

  function notes() {
    renew(noteList, ...run.marks.toReversed().map(({ kind, value, by, created }) =>
      make("div", { class: "review" }, make("b", { text: kind }), make("span", { class: "soft", text: ` ${by}, ${new Date(created).toLocaleString()}` }), make("p", { text: value }))));
  }

  function pick(name) {
    tab = name;
    for (const button of parts.tabs.children) {
      button.tabIndex = button.dataset.tab === tab ? 0 : -1;
      button.setAttribute("aria-selected", String(button.dataset.tab === tab));
      button.hidden = { curves: !trains(), samples: run.sizes.samples === 0 }[button.dataset.tab] ?? false;
    }
    for (const each of Object.keys(TABS)) parts[each].hidden = each !== tab;
  }

  // Rows that follow on those that are here; others are left to the next look.
  function take(name, { rows, start, end }) {
    if (records[name].end !== start) return;
    records[name].rows.push(...rows);
    records[name].end = end;
  }

  // What has been added to the run's files since the last look, and nothing else.
  async function follow() {
    if (busy) return;
    busy = true;
    const asked = run.run_id, path = `/api/runs/${encodeURIComponent(asked)}`;
    try {
      for (const name of ["metrics", "samples", "warnings"]) {
        const kept = records[name];
        if (run.sizes[name] < kept.end) Object.assign(kept, { rows: [], end: 0 }); // a resumed run goes on from a checkpoint
        while (run.run_id === asked && run.sizes[name] > kept.end) {
          const more = await window.concord.get(`${path}/lines/${name}?start=${kept.end}`);
          if (more.end === kept.end) break;
          kept.rows.push(...more.rows);
          kept.end = more.end;
        }
      }
      if (tab === "log" && run.sizes.log !== logEnd) {
        const bottom = logText.scrollHeight - logText.scrollTop - logText.clientHeight < 40;
        const more = await window.concord.get(`${path}/log?start=${logEnd ?? -60000}`);
        logText.textContent += more.text.replace(/[^\n]*\r(?!\n)/g, "");
        logEnd = more.end;
        if (bottom) logText.scrollTop = logText.scrollHeight;
      }
    } catch { /* the next look tries again */ }
    busy = false;
    if (run?.run_id !== asked) return;
    draw(records.metrics.rows);
    if (records.metrics.rows.length === 0) parts.curves.replaceChildren(make("p", { class: "empty", text: "No figures yet." }));
    samples();
    parts.warnings.hidden = records.warnings.rows.length === 0;
    renew(parts.warnings, ...records.warnings.rows.slice(-3).map(({ warning }) => make("p", { text: warning })));
  }

  // The same prompt over the iterations, side by side.
  function samples() {
    const rows = records.samples.rows, prompts = [...new Set(rows.map(({ prompt }) => textOf(prompt)))].slice(0, 6);
    const iterations = [...new Set(rows.map(({ iteration }) => iteration))];
    const shown = iterations.length <= 4 ? iterations : [iterations[0], iterations[Math.floor(iterations.length / 3)], iterations[Math.floor((2 * iterations.length) / 3)], iterations.at(-1)];
    const key = JSON.stringify([rows.length, prompts.length]);
    if (parts.samples.dataset.key === `${run.run_id}${key}`) return;
    parts.samples.dataset.key = `${run.run_id}${key}`;
    parts.samples.replaceChildren(...prompts.map((prompt) => make("div", { class: "box" }, make("p", { class: "r-prompt", dir: "auto", text: prompt }),
      make("div", { class: "r-side" }, ...shown.flatMap((iteration) => rows.filter((row) => row.iteration === iteration && textOf(row.prompt) === prompt).slice(0, 1)).map((row) =>
        make("div", {}, make("b", { text: `Iteration ${row.iteration}` }), make("span", { class: "soft", text: typeof row.reward === "number" ? ` reward ${row.reward.toFixed(2)}` : "" }), make("p", { dir: "auto", text: row.completion })))))));
  }
  const textOf = (prompt) => (typeof prompt === "string" ? prompt : (prompt ?? []).map(({ content }) => content).join("\n"));

  parts.tabs.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], shown = [...parts.tabs.children].filter((button) => !button.hidden);
    if (!step) return;
    const next = shown[(shown.indexOf(document.activeElement) + step + shown.length) % shown.length];
    next.focus();
    next.click();
  });

  async function note(kind, text) {
    const { run_id } = run;
    if (!(await act(run, kind, text.trim()))) return;
    if (unsaved[run_id] === text) delete unsaved[run_id];
    if (run?.run_id === run_id && noteText.value === text) noteText.value = "";
  }

  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.tab) { wanted = button.dataset.tab; pick(wanted); follow(); }
    else if (button.dataset.act) act(run, button.dataset.act);
    else if (button.dataset.note && noteText.value.trim()) note(button.dataset.note, noteText.value);
  });
  return { element, show, ends };
};
