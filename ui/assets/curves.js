// Curves of a run (and points of several) with uPlot: colours that a colour-blind reader tells apart, in light and dark.
"use strict";
window.concord = window.concord || {};

(() => {
  const COLOURS = ["#2e86c9", "#d9662b", "#7a5cc0", "#2f9e77"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
  // A panel's title and what it shows, in the order in which people look. Every other number follows by itself.
  const PANELS = [
    ["Reward", ["reward", "eval_reward"]], ["KL to the reference", ["kl"]], ["Loss", ["loss", "eval_loss"]],
    ["Policy loss", ["policy_loss"]], ["Value loss", ["value_loss"]], ["Entropy", ["entropy"]],
    ["Share clipped", ["clip_fraction", "value_clip_fraction"]], ["Explained variance", ["explained_variance"]],
    ["Held-out toxicity", ["eval_toxicity"]], ["Held-out fluency: nats per token under the base, lower is better", ["eval_cost"]], ["Accuracy", ["accuracy", "eval_accuracy"]],
    ["Length", ["mean_length", "max_length"]], ["Finished", ["finished"]],
    ["Seconds per phase", ["seconds_generation", "seconds_scoring", "seconds_update", "step_time"]], ["Memory, MB", ["memory_mb"]],
    ["Learning rate", ["learning_rate"]],
  ];
  const SILENT = new Set(["iteration", "step", "epoch", "time", "total_flos", "num_input_tokens_seen", "num_tokens"]);
  const words = (key) => key.replaceAll("_", " ");

  function panelsOf(rows) {
    const numbers = new Set(rows.flatMap((row) => Object.keys(row).filter((key) => typeof row[key] === "number" && !SILENT.has(key))));
    const known = PANELS.map(([title, keys]) => [title, keys.filter((key) => numbers.has(key))]).filter(([, keys]) => keys.length);
    const taken = new Set(known.flatMap(([, keys]) => keys));
    return [...known, ...[...numbers].filter((key) => !taken.has(key)).map((key) => [words(key), [key]])];
  }

  function dataOf(rows, keys) {
    const at = rows.map((row, index) => row.iteration ?? row.step ?? index);
    const used = rows.map((row, index) => index).filter((index) => keys.some((key) => typeof rows[index][key] === "number"));
    return [used.map((i) => at[i]), ...keys.map((key) => used.map((i) => (typeof rows[i][key] === "number" ? rows[i][key] : null)))];
  }

  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = () => ({ stroke: ink("--c-soft"), grid: { stroke: ink("--c-line"), width: 1 }, ticks: { stroke: ink("--c-line"), width: 1 }, font: "12px system-ui" });

  // Draw the curves of `rows` into `box`; called again with more rows it moves them, without building anything anew.
  window.concord.curves = (box) => {
    let plots = [], shape = "";
    const width = (element) => Math.max(240, element.clientWidth - 2);
    const observer = new ResizeObserver(() => plots.forEach(({ plot, holder }) => plot.setSize({ width: width(holder), height: 190 })));
    observer.observe(box);
    function build(panels, rows) {
      plots.forEach(({ plot }) => plot.destroy());
      box.replaceChildren();
      plots = panels.map(([title, keys]) => {
        const { make } = window.concord;
        const holder = make("figure", { class: "r-curve" }, make("figcaption", { text: title }));
        box.append(holder);
        const series = keys.map((key, i) => ({ label: words(key), stroke: COLOURS[i % 4], dash: DASHES[i % 4], width: 2, spanGaps: true, points: { show: rows.length < 2 } }));
        const options = { width: width(holder), height: 190, legend: { show: keys.length > 1 }, scales: { x: { time: false } },
          series: [{ label: "iteration" }, ...series], axes: [axis(), { ...axis(), size: 58 }], cursor: { drag: { setScale: false } } };
        return { plot: new uPlot(options, dataOf(rows, keys), holder), holder, keys };
      });
    }
    const draw = (rows) => {
      const panels = panelsOf(rows);
      const now = JSON.stringify([panels, rows.length < 2]);
      if (now !== shape) build(panels, rows);
      else plots.forEach(({ plot, keys }) => plot.setData(dataOf(rows, keys)));
      shape = now;
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { shape = ""; });
    return draw;
  };

  async function recordOf(run_id) {
    const rows = [];
    for (let start = 0, end = -1; end !== start;) {
      start = Math.max(end, 0);
      const more = await window.concord.get(`/api/runs/${encodeURIComponent(run_id)}/lines/metrics?start=${start}`);
      rows.push(...more.rows);
      end = more.end;
    }
    return rows;
  }

  // Several runs over each other: a panel for each figure that at least two of them have, a curve for each run.
  window.concord.overlay = async (box, ids) => {
    const { make } = window.concord;
    const records = await Promise.all(ids.map((run_id) => recordOf(run_id).catch(() => [])));
    const at = (row, index) => row.iteration ?? row.step ?? index;
    for (const key of panelsOf(records.flat()).flatMap(([, keys]) => keys)) {
      const having = ids.map((id, i) => ({ id, i, known: new Map(records[i].map((row, n) => [at(row, n), row[key]]).filter(([, value]) => typeof value === "number")) })).filter(({ known }) => known.size);
      if (having.length < 2) continue;
      const holder = make("figure", { class: "r-curve", "data-key": key }, make("figcaption", { text: words(key) }));
      box.append(holder);
      const xs = [...new Set(having.flatMap(({ known }) => [...known.keys()]))].sort((a, b) => a - b);
      const series = having.map(({ id, i }) => ({ label: id, stroke: COLOURS[i % 4], dash: DASHES[(i + Math.floor(i / 4)) % 4], width: 2, spanGaps: true }));
      new uPlot({ width: Math.max(240, holder.clientWidth - 2), height: 210, scales: { x: { time: false } }, series: [{ label: "iteration" }, ...series], axes: [axis(), { ...axis(), size: 58 }], cursor: { drag: { setScale: false } } },
        [xs, ...having.map(({ known }) => xs.map((x) => known.get(x) ?? null))], holder);
    }
  };

  // Toxicity against KL, one point per run with its name beside it: less of both is better.
  window.concord.pareto = (box, points) => {
    const { make } = window.concord;
    const shown = points.filter(({ x, y }) => typeof x === "number" && typeof y === "number").sort((a, b) => a.x - b.x);
    if (shown.length < 2) return;
    const holder = make("figure", { class: "r-curve wide" }, make("figcaption", { text: "Toxicity after, against KL from the reference: lower and further left is better" }));
    box.append(holder);
    const names = (plot) => {
      const { ctx } = plot;
      ctx.save(); ctx.fillStyle = ink("--c-ink"); ctx.font = `${12 * devicePixelRatio}px system-ui`;
      shown.forEach(({ name, x, y }) => ctx.fillText(name, plot.valToPos(x, "x", true) + 8 * devicePixelRatio, plot.valToPos(y, "y", true) - 6 * devicePixelRatio));
      ctx.restore();
    };
    const range = (values) => { const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * 0.25; return [low - pad, high + pad]; };
    new uPlot({ width: Math.max(280, box.clientWidth - 40), height: 260, legend: { show: false }, hooks: { draw: [names] },
      scales: { x: { time: false, range: range(shown.map((p) => p.x)) }, y: { range: range(shown.map((p) => p.y)) } },
      series: [{}, { stroke: COLOURS[0], paths: () => null, points: { show: true, size: 10, fill: COLOURS[0] } }],
      axes: [{ ...axis(), label: "KL (nats per completion)" }, { ...axis(), size: 58, label: "toxicity" }] },
      [shown.map((p) => p.x), shown.map((p) => p.y)], holder);
  };
})();
