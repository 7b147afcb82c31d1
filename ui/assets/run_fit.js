// What a run would learn from and whether it fits, in the words of the start form.
"use strict";
window.concord = window.concord || {};

window.concord.runFit = (() => {
  const { make } = window.concord;
  const NAMES = { reward: "Reward model", ppo: "PPO" };
  const share = (value) => (value === null || value === undefined ? "not defined" : value.toFixed(2));
  const size = (bytes) => (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.max(1, Math.round(bytes / 2 ** 20))} MiB`);
  const time = (seconds) => (seconds < 1 ? "under a second" : window.concord.runWords.duration(seconds));

  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  // The rankings behind the run, people and simulated labelers apart.
  function reads(found, stage) {
    if (!found) return [];
    const title = found.consensus === null ? "Frozen at the start" : `Frozen by ${found.consensus}`;
    const rows = [["People", found.people], ["Simulated", found.simulated], ["All", found.together]].filter(([, figures]) => figures);
    const line = ([who, { prompts, rankings, labelers, pairs, krippendorff_alpha: alpha, pairwise_agreement: agreed }]) => make("div", { class: "r-share" },
      make("b", { text: who }), ` ${count(rankings, "ranking")} of ${count(prompts, "prompt")} by ${count(labelers, "labeler")}${pairs === undefined ? "" : `, ${count(pairs, "pair")} compared`}`,
      make("span", { class: "soft", text: `Krippendorff's alpha ${share(alpha)}, pairwise agreement ${share(agreed)}` }));
    const later = found.consensus === null ? "Rankings that come in after the click are left to the next run." : found.usable_pairs === null || found.usable_pairs === undefined ? "" : `${count(found.usable_pairs, "pair")} ${stage === "ppo" ? "taught the reward model." : "to learn from."}`;
    return [make("h3", { text: title }), ...rows.map(line), later ? make("p", { class: "soft", text: later }) : "",
      found.problem ? make("p", { class: "r-wrong", text: found.problem }) : ""];
  }

  // Memory beside the room, and time, of each stage that trains.
  function plan({ stages, problem }) {
    if (problem) return [make("h3", { text: "No plan" }), make("p", { text: problem })];
    return Object.entries(stages).flatMap(([stage, one]) => [make("h3", {}, `${NAMES[stage]} `, make("span", { class: `tag ${one.fits ? "good" : "bad"}`, text: one.fits ? "fits" : "does not fit" })),
      make("p", { text: `Needs ${size(one.peak_bytes)} of ${size(one.room_bytes)}${one.setting.devices > 1 ? " for each process" : ""}, on ${one.machine}.` }),
      make("p", { class: "soft", text: `${duration(one)} Prompts of up to ${one.tokens.prompt} tokens${one.tokens.counted ? "" : " (guessed)"}, completions of up to ${one.tokens.completion}.` }),
      one.fits ? "" : make("p", { text: one.what_would_fit.length ? `It would fit with ${one.what_would_fit.join("; or ")}.` : "None of the usual changes makes it fit: take a larger machine or a smaller base." })]);
  }

  const duration = ({ seconds, total_seconds: total }) => {
    if (seconds === null) return "How long it takes is not known for this machine.";
    const once = Object.values(seconds).reduce((sum, one) => sum + one, 0);
    return total === null ? `Roughly ${time(once)} for each step.` : `Roughly ${time(total)} in all, give or take a factor of two.`;
  };

  // Why a run that is planned like this had better not be started; null where nothing speaks against it.
  const doubt = ({ stages, problem }) => problem
    ?? (Object.values(stages).some(({ fits }) => !fits) ? "It does not fit this machine by the plan, and would probably run out of memory." : null);
  return { reads, plan, doubt };
})();
