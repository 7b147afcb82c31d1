// The form that starts a run: made from the typed configuration, checked while it is filled in, nothing started before.
"use strict";
window.concord = window.concord || {};

window.concord.runForm = (started) => {
  const { make } = window.concord;
  const STAGES = { round: "The whole round", sample: "Sample completions", consensus: "Consensus", reward: "Reward model", ppo: "PPO", evaluate: "Evaluation" };
  const dialog = make("dialog", { class: "r-form", "aria-labelledby": "r-form-title" });
  const state = { stage: "round", form: null, wrong: {}, waiting: 0, asked: 0, chosen: 0, reading: 0, planned: 0, plan: null, planning: null, sure: false };

  const stagePick = make("select", { id: "r-stage" }, ...Object.entries(STAGES).map(([value, text]) => make("option", { value, text })));
  const sourcePick = make("select", { id: "r-source" });
  const sourceRow = make("label", { class: "r-row" }, make("span", { text: "Reads" }), sourcePick);
  const processes = make("input", { type: "number", min: 1, max: 64, value: 1, id: "r-nproc" });
  const sharded = make("input", { type: "checkbox", id: "r-fsdp" });
  const launchRow = make("div", { class: "r-row" },
    make("label", {}, make("span", { text: "Processes" }), processes), make("label", { class: "r-flag" }, sharded, make("span", { text: "Shard the model among them (FSDP)" })));
  const fields = make("div", { class: "r-fields" });
  const reads = make("section", { class: "r-reads", "aria-label": "What it learns from", hidden: true });
  const plan = make("section", { class: "r-plan", "aria-label": "Whether it fits", "aria-live": "polite", hidden: true });
  const yaml = make("pre", { class: "r-yaml", tabindex: "0", "aria-label": "The same as YAML" });
  const changes = make("div", { class: "r-changes" });
  const trouble = make("p", { class: "message", role: "alert", hidden: true });
  const start = make("button", { class: "r-primary", text: "Start", type: "submit" });
  const form = make("form", { method: "dialog" },
    make("header", {}, make("h2", { id: "r-form-title", text: "Start a run" }), make("button", { type: "button", class: "r-close", "aria-label": "Close", text: "✕" })),
    make("label", { class: "r-row" }, make("span", { text: "Stage" }), stagePick), sourceRow, launchRow,
    make("div", { class: "r-columns" }, fields, make("aside", {}, reads, plan, changes, yaml)), trouble,
    make("div", { class: "r-foot" }, start));
  dialog.append(form);

  const value = (input, { kind, optional }) => {
    if (kind === "flag") return input.checked;
    const text = input.value.trim();
    if (text === "" && optional) return null;
    if (kind === "integer" || kind === "number") return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
    return input.value;
  };
  const inputs = () => [...fields.querySelectorAll("[data-field]")];
  const values = () => Object.fromEntries(state.form.fields.map((field) => [field.name, value(inputs().find((i) => i.dataset.field === field.name), field)]));
  const trains = () => state.form.launched || state.stage === "round";
  const asked = () => ({ stage: state.stage, values: values(), source: sourceRow.hidden ? null : sourcePick.value, nproc: launchRow.hidden ? 1 : Number(processes.value), fsdp: !launchRow.hidden && sharded.checked });

  function fieldRow(field) {
    const id = `r-field-${field.name}`, common = { id, "data-field": field.name, "aria-describedby": `${id}-about` };
    let input;
    if (field.kind === "flag") { input = make("input", { ...common, type: "checkbox" }); input.checked = Boolean(field.value); }
    else if (field.kind === "choice") {
      input = make("select", common, ...field.choices.map((choice) => make("option", { value: choice, text: choice })));
      input.value = field.value;
    } else if (field.kind === "yaml") { input = make("textarea", { ...common, rows: 2 }); input.value = field.value ?? ""; }
    else { input = make("input", { ...common, inputmode: field.kind === "text" ? null : "decimal", placeholder: field.optional ? "none" : null }); input.value = field.value ?? ""; }
    return make("div", { class: `r-field ${field.kind}` }, make("label", { for: id, text: field.name.replaceAll("_", " ") }), input,
      make("p", { class: "soft", id: `${id}-about`, text: field.about }), make("p", { class: "r-wrong", "data-wrong": field.name, role: "alert" }));
  }

  async function choose(stage) {
    // What was filled in for another stage goes at once; an answer that comes late is dropped.
    const chosen = ++state.chosen;
    state.reading += 1;
    state.stage = stage;
    state.touched = state.unread = false;
    stagePick.value = stage;
    fields.replaceChildren();
    for (const each of [reads, plan]) each.hidden = true;
    start.disabled = true;
    const form = await window.concord.get(`/api/runs/form?stage=${stage}`);
    if (chosen !== state.chosen) return;
    state.form = { ...form, fields: [...form.base, ...form.fields] };
    sourcePick.replaceChildren(...state.form.sources.map(({ run_id, about }) => make("option", { value: run_id, text: `${run_id} (${about})` })));
    sourceRow.hidden = state.form.sources.length === 0;
    launchRow.hidden = !state.form.launched;
    fields.replaceChildren(...state.form.fields.map(fieldRow));
    if (stage === "round") fields.append(make("p", { class: "soft", text: "Consensus, reward model, PPO and evaluation on today's rankings, one after the other, with the other options of concord.yaml." }));
    takeBase();
    await Promise.all([check(), read()]);
  }

  // What a run reads was trained on a base: that one is proposed.
  function takeBase() {
    const base = state.form.sources.find(({ run_id }) => run_id === sourcePick.value)?.base;
    const input = inputs().find((i) => i.dataset.field === "base_model");
    if (base && input) input.value = base;
  }

  async function read() {
    const chosen = ++state.reading, labelers = inputs().find((i) => i.dataset.field === "labelers")?.value ?? "auto";
    const query = new URLSearchParams({ stage: state.stage, labelers });
    if (!sourceRow.hidden) query.set("source", sourcePick.value);
    const found = await window.concord.get(`/api/runs/reads?${query}`);
    if (chosen !== state.reading) return;
    const shown = window.concord.runFit.reads(found, state.stage);
    reads.replaceChildren(...shown);
    reads.hidden = shown.length === 0;
    const before = state.unread;
    state.unread = Boolean(found?.problem); // Start waits until it can be read
    if (before !== state.unread) await check();
  }

  // The plan follows the fields: what is asked for before a plan is there waits for it.
  function replan() {
    const number = ++state.planned;
    unsure();
    state.plan = state.planning = null;
    plan.hidden = !trains() || start.disabled;
    if (plan.hidden) return;
    plan.replaceChildren(make("p", { class: "soft", text: "Looking whether it fits…" }));
    state.planning = new Promise((done) => { setTimeout(done, 400); }).then(async () => {
      if (number !== state.planned) return;
      let found;
      do {
        found = await window.concord.post("/api/runs/plan", asked()).catch((error) => ({ stages: {}, problem: error.message }));
        if (number !== state.planned) return;
      } while (found.pending);
      state.plan = found;
      plan.replaceChildren(...window.concord.runFit.plan(found));
    });
  }

  function unsure() {
    state.sure = false;
    start.textContent = "Start";
  }

  async function check() {
    const number = ++state.asked;
    let found;
    try { found = await window.concord.post("/api/runs/check", asked()); } catch (error) { return say(error.message); }
    if (number !== state.asked) return;
    say("");
    state.wrong = found.problems;
    for (const place of fields.querySelectorAll("[data-wrong]")) {
      const wrong = found.problems[place.dataset.wrong] ?? "";
      place.textContent = wrong;
      inputs().find((i) => i.dataset.field === place.dataset.wrong).setAttribute("aria-invalid", String(Boolean(wrong)));
    }
    if (found.problems[""]) say(found.problems[""]);
    start.disabled = state.unread || Object.keys(found.problems).length > 0;
    replan();
    yaml.textContent = found.yaml;
    yaml.hidden = !found.yaml;
    const shown = (v) => (v === null || v === undefined ? "none" : String(v));
    changes.replaceChildren(...(found.last_run ? [make("h3", { text: found.differences.length ? `Differs from ${found.last_run}` : `As ${found.last_run}` }),
      ...found.differences.map(({ name, before, now }) => make("p", {}, make("b", { text: name }), ` ${shown(before)} → ${shown(now)}`))] : []));
  }

  function say(text) { trouble.textContent = text; trouble.hidden = !text; }

  form.addEventListener("input", (event) => {
    if (event.target === stagePick) return;
    state.touched = true;
    start.disabled = true; // until what is in the form now has been looked at
    if (event.target === sourcePick) takeBase();
    if (event.target === sourcePick || event.target.dataset.field === "labelers") read().catch((error) => say(error.message));
    clearTimeout(state.waiting);
    state.waiting = setTimeout(check, 250);
  });
  stagePick.addEventListener("change", () => choose(stagePick.value).catch((error) => say(error.message)));
  form.querySelector(".r-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("cancel", (event) => { // Esc
    if (state.touched && !window.confirm("Close the form? What is filled in is lost.")) event.preventDefault();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    try {
      const number = state.planned;
      await state.planning;
      if (number !== state.planned) return; // the form has changed meanwhile
      const doubt = state.plan && window.concord.runFit.doubt(state.plan);
      if (doubt && !state.sure) {
        state.sure = true;
        start.textContent = "Start all the same";
        say(`${doubt} Click once more to start it all the same.`);
        start.disabled = false;
        return;
      }
      const { queued } = await window.concord.post("/api/runs", asked());
      dialog.close();
      started(queued[0]);
    } catch (error) { say(error.message); }
    start.disabled = false;
  });

  return { element: dialog, open: (stage) => { dialog.showModal(); return choose(stage).catch((error) => say(error.message)); } };
};
