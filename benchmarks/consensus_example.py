"""The worked example of docs/concepts/consensus.md: three labelers, of whom the third misread the task.

`python -m benchmarks.consensus_example FIGURE.svg` draws the page's figure and prints its table. A test compares the
table with the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from alignment.config import SimulateConfig
from alignment.feedback.consensus import Consensus, fit_consensus
from alignment.feedback.simulation import simulate_rankings
from alignment.records import Ranking

NAMES = {"sim-careful-1": "Ana", "sim-careful-2": "Ben", "sim-reversed-1": "Cem"}
PROMPTS = 30
SEED = 1
DRAWS = 20


def example(seed: int = SEED) -> tuple[list[Ranking], dict[str, float]]:
    """30 prompts of three completions, each ranked by Ana, Ben and Cem, and how good the completions truly are."""
    rng = np.random.default_rng(seed)
    ids = {
        f"prompt-{p:02d}": [f"{p:02d}-{letter}" for letter in "ABC"] for p in range(1, PROMPTS + 1)
    }
    utilities = {name: float(rng.normal()) for names in ids.values() for name in names}
    config = SimulateConfig.model_validate(
        {"careful": 2, "noisy": 0, "random": 0, "reversed": 1, "position_biased": 0, "seed": seed}
    )
    _, rankings = simulate_rankings(ids, utilities, config)
    return [
        Ranking(r.prompt_id, NAMES[r.labeler_id], r.ranks, r.positions, r.seconds, simulated=True)
        for r in rankings
    ], utilities


def right_share(consensus: Consensus, utilities: dict[str, float]) -> float:
    """Share of pairs in their true order; a pair that is left level counts half."""
    shares = [
        0.5
        if pair.confidence == 0.5
        else float(utilities[pair.preferred_id] > utilities[pair.other_id])
        for pair in consensus.pairs
    ]
    return float(np.mean(shares))


def disputed_prompt(consensus: Consensus, utilities: dict[str, float]) -> str:
    """The first prompt on which the majority is wrong about two of three pairs and the consensus is right."""
    majority = fit_consensus(example()[0], method="majority")
    wrong: dict[str, int] = {}
    for pair in majority.pairs:
        mistaken = utilities[pair.preferred_id] < utilities[pair.other_id]
        wrong[pair.prompt_id] = wrong.get(pair.prompt_id, 0) + mistaken
    for prompt in consensus.prompts:
        true = sorted(prompt.ranks, key=lambda name: -utilities[name])
        if wrong[prompt.prompt_id] and [prompt.ranks[name] for name in true] == [1, 2, 3]:
            return prompt.prompt_id
    raise AssertionError("the example holds no such prompt")


def mean_share(method: str) -> float:
    """The share of pairs in their true order, over DRAWS such examples."""
    drawn = (example(seed) for seed in range(DRAWS))
    return float(np.mean([right_share(fit_consensus(r, method=method), u) for r, u in drawn]))


def tables() -> str:
    """The page's tables, in Markdown."""
    rankings, utilities = example()
    fits = {
        method: fit_consensus(rankings, method=method) for method in ("factor", "majority", "borda")
    }
    consensus = fits["factor"]
    lines = [
        f"| method | pairs in the true order | mean of {DRAWS} such examples |",
        "|---|---|---|",
    ]
    lines += [
        f"| {method} | {right_share(fit, utilities):.0%} | {mean_share(method):.0%} |"
        for method, fit in fits.items()
    ]
    lines += ["", "| labeler | reliability | 95% interval | kind |", "|---|---|---|---|"]
    lines += [
        f"| {row.labeler_id} | {row.reliability:+.2f} | {row.low:+.2f} to {row.high:+.2f} | {row.kind} |"
        for row in consensus.labelers
    ]
    chosen = disputed_prompt(consensus, utilities)
    lines += ["", f"| {chosen} | A | B | C |", "|---|---|---|---|"]
    for r in sorted((r for r in rankings if r.prompt_id == chosen), key=lambda r: r.labeler_id):
        ranks = [r.ranks[name] for name in sorted(r.ranks)]
        lines.append(f"| {r.labeler_id}'s ranks | {ranks[0]} | {ranks[1]} | {ranks[2]} |")
    for method in ("majority", "factor"):
        prompt = next(prompt for prompt in fits[method].prompts if prompt.prompt_id == chosen)
        ranks = [prompt.ranks[name] for name in sorted(prompt.ranks)]
        lines.append(f"| {method} | {ranks[0]} | {ranks[1]} | {ranks[2]} |")
    lines += [
        "",
        "| pair | votes for, against | confidence | a typical labeler agrees |",
        "|---|---|---|---|",
    ]
    for pair in consensus.pairs:
        if pair.prompt_id == chosen:
            votes = f"{pair.votes.chosen}, {pair.votes.rejected}"
            name = f"{pair.preferred_id[-1]} over {pair.other_id[-1]}"
            lines.append(f"| {name} | {votes} | {pair.confidence:.2f} | {pair.probability:.2f} |")
    return "\n".join(lines) + "\n"


def draw(path: Path) -> None:
    """Reliabilities with intervals, and pairs in the true order by method."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "concord"  # the same file every time
    import matplotlib.pyplot as plt

    rankings, utilities = example()
    consensus = fit_consensus(rankings, method="factor")
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), constrained_layout=True)
    for height, row in enumerate(reversed(consensus.labelers)):
        colour = "tab:red" if row.flagged else "tab:blue"
        left.plot([row.low, row.high], [height, height], color=colour, linewidth=2)
        left.plot(row.reliability, height, "o", color=colour)
        left.annotate(
            row.kind,
            (row.reliability, height),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    left.set_yticks(range(3), [row.labeler_id for row in reversed(consensus.labelers)])
    left.axvline(0, color="grey", linewidth=0.8)
    left.set(xlim=(-1.4, 1.4), ylim=(-0.5, 2.7), xlabel="reliability, with 95% interval")
    methods = ("borda", "majority", "factor")
    shares = [right_share(fit_consensus(rankings, method=method), utilities) for method in methods]
    bars = right.barh(methods, shares, color=["lightgrey", "lightgrey", "tab:blue"])
    right.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
    right.axvline(0.5, color="grey", linewidth=0.8)
    right.set(xlim=(0, 1.1), xlabel="pairs in the true order (0.5 is chance)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
    print(tables())


if __name__ == "__main__":
    main()
