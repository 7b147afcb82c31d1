// The form that starts a run: made from the typed configuration, checked while it is filled in, nothing started before.
"use strict";
window.concord = window.concord || {};

window.concord.runForm = (started) => {
  const { make } = window.concord;
  const STAGES = { round: "The whole round", sample: "Sample completions", consensus: "Consensus", reward: "Reward model", ppo: "PPO", evaluate: "Evaluation" };
  const dialog = make("dialog", { class: "r-form", "aria-labelledby": "r-form-title" });
  const state = { stage: "round", form: null, wrong: {}, waiting: 0, asked: 0, chosen: 0 };

  const stagePick = make("select", { id: "r-stage" }, ...Object.entries(STAGES).map(([value, text]) => make("option", { value, text })));
  const sourcePick = make("select", { id: "r-source" });
  const sourceRow = make("label", { class: "r-row" }, make("span", { text: "Reads" }), sourcePick);
  const processes = make("input", { type: "number", min: 1, max: 64, value: 1, id: "r-nproc" });
  const sharded = make("input", { type: "checkbox", id: "r-fsdp" });
  const launchRow = make("div", { class: "r-row" },
    make("label", {}, make("span", { text: "Processes" }), processes), make("label", { class: "r-flag" }, sharded, make("span", { text: "Shard the model among them (FSDP)" })));
  const fields = make("div", { class: "r-fields" });
  const yaml = make("pre", { class: "r-yaml", tabindex: "0", "aria-label": "The same as YAML" });
  const changes = make("div", { class: "r-changes" });
  const trouble = make("p", { class: "message", role: "alert", hidden: true });
  const start = make("button", { class: "r-primary", text: "Start", type: "submit" });
  const form = make("form", { method: "dialog" },
    make("header", {}, make("h2", { id: "r-form-title", text: "Start a run" }), make("button", { type: "button", class: "r-close", "aria-label": "Close", text: "✕" })),
    make("label", { class: "r-row" }, make("span", { text: "Stage" }), stagePick), sourceRow, launchRow,
    make("div", { class: "r-columns" }, fields, make("aside", {}, changes, yaml)), trouble,
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
    state.stage = stage;
    stagePick.value = stage;
    fields.replaceChildren();
    start.disabled = true;
    const form = await window.concord.get(`/api/runs/form?stage=${stage}`);
    if (chosen !== state.chosen) return;
    state.form = form;
    sourcePick.replaceChildren(...state.form.sources.map(({ run_id, about }) => make("option", { value: run_id, text: `${run_id} (${about})` })));
    sourceRow.hidden = state.form.sources.length === 0;
    launchRow.hidden = !state.form.launched;
    fields.replaceChildren(...(stage === "round"
      ? [make("p", { class: "soft", text: "Consensus, reward model, PPO and evaluation on today's rankings, one after the other, with the options of concord.yaml." })]
      : state.form.fields.map(fieldRow)));
    await check();
  }

  async function check() {
    const asked = ++state.asked;
    let found;
    try { found = await window.concord.post("/api/runs/check", { stage: state.stage, values: state.stage === "round" ? {} : values() }); } catch (error) { return say(error.message); }
    if (asked !== state.asked) return;
    say("");
    state.wrong = found.problems;
    for (const place of fields.querySelectorAll("[data-wrong]")) {
      const wrong = found.problems[place.dataset.wrong] ?? "";
      place.textContent = wrong;
      inputs().find((i) => i.dataset.field === place.dataset.wrong).setAttribute("aria-invalid", String(Boolean(wrong)));
    }
    if (found.problems[""]) say(found.problems[""]);
    start.disabled = Object.keys(found.problems).length > 0;
    yaml.textContent = found.yaml;
    yaml.hidden = !found.yaml;
    const shown = (v) => (v === null || v === undefined ? "none" : String(v));
    changes.replaceChildren(...(found.last_run ? [make("h3", { text: found.differences.length ? `Differs from ${found.last_run}` : `As ${found.last_run}` }),
      ...found.differences.map(({ name, before, now }) => make("p", {}, make("b", { text: name }), ` ${shown(before)} → ${shown(now)}`))] : []));
  }

  function say(text) { trouble.textContent = text; trouble.hidden = !text; }

  form.addEventListener("input", (event) => {
    if (!event.target.dataset.field) return;
    clearTimeout(state.waiting);
    state.waiting = setTimeout(check, 250);
  });
  stagePick.addEventListener("change", () => choose(stagePick.value).catch((error) => say(error.message)));
  form.querySelector(".r-close").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    try {
      const { queued } = await window.concord.post("/api/runs", {
        stage: state.stage, values: state.stage === "round" ? {} : values(), source: sourceRow.hidden ? null : sourcePick.value,
        nproc: launchRow.hidden ? 1 : Number(processes.value), fsdp: sharded.checked });
      dialog.close();
      started(queued[0]);
    } catch (error) { say(error.message); }
    start.disabled = false;
  });

  return { element: dialog, open: (stage) => { dialog.showModal(); return choose(stage).catch((error) => say(error.message)); } };
};
