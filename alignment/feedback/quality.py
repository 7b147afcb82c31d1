"""How well each labeler ranks, for the project manager: every figure with a 95% interval, flags with their evidence.

Shares have Wilson intervals (Wilson 1927, JASA 22:209). Means have percentile bootstrap intervals over answers; above
`MOST_BOOTSTRAPPED` answers the normal interval, which is the same by then. The median has that of its order statistics.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from alignment.config import LabellingConfig
from alignment.feedback.blind import Share
from alignment.feedback.known_orders import known_orders
from alignment.feedback.practice import agreement
from alignment.feedback.store import Store

Z = 1.959964  # of a 95% interval
MOST_BOOTSTRAPPED, RESAMPLES = 200, 1000
FAST_SHARE, BIAS, CHANCE = 0.1, 0.15, 0.5


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval, of `count` answers."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class LabelerQuality:
    """One labeler. A figure is None where there is nothing to tell it from; `undefined` then says why.

    `gold_pass`: share of gold tasks answered right. `self_consistency`: share of pairs that a repeat orders like the
    first answer; chance gives a half. `seconds`: median time of an answer. `too_fast`: share of them below the limit.
    `position_bias`, `length_bias`: of the ordered pairs, the surplus of those where what was shown first (what is
    longer) is ranked better, in [-1, 1]; 0 is none. Longer completions may be better ones: compare labelers with each
    other. `consensus_agreement`: share of pairs ordered like the latest consensus, in which own votes count too.
    """

    labeler_id: str
    simulated: bool
    state: str
    answers: int
    skips: int
    none_acceptable: int
    gold_pass: Figure | None
    self_consistency: Figure | None
    seconds: Figure | None
    too_fast: Figure | None
    position_bias: Figure | None
    length_bias: Figure | None
    consensus_agreement: Figure | None
    undefined: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wilson(successes: int, count: int) -> Figure | None:
    """A share and its Wilson interval; None of nothing."""
    if not count:
        return None
    share = Share.of(successes, count)
    return Figure(share.share, share.low, share.high, count)


def mean_figure(values: Sequence[float], seed: int = 0) -> Figure | None:
    """A mean and its interval; None of fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    array = np.asarray(values, float)
    mean = float(array.mean())
    if count > MOST_BOOTSTRAPPED:
        half = Z * float(array.std(ddof=1)) / np.sqrt(count)
        return Figure(mean, float(mean - half), float(mean + half), count)
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(array[draws].mean(axis=1), [0.025, 0.975])
    return Figure(mean, float(low), float(high), count)


def median_figure(values: Sequence[float]) -> Figure | None:
    """A median and the interval of order statistics around it; None of fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    ordered = np.sort(np.asarray(values, float))
    half = Z * np.sqrt(count) / 2
    low = max(0, int(np.floor(count / 2 - half)))
    high = min(count - 1, int(np.ceil(count / 2 + half)))
    return Figure(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), count)


def surplus(ranks: Mapping[str, int], measure: Mapping[str, float]) -> float | None:
    """Of the pairs that both `ranks` and `measure` order, the share where the smaller measure is ranked better, less
    the share where it is ranked worse; None where there is no such pair."""
    signs = []
    for a, b in combinations(sorted(ranks), 2):
        product = (ranks[a] - ranks[b]) * (measure[a] - measure[b])
        if product:
            signs.append(1 if product > 0 else -1)
    return sum(signs) / len(signs) if signs else None


def labeler_quality(
    store: Store,
    rules: LabellingConfig,
    consensus: Mapping[str, Mapping[str, int]] | None = None,
) -> list[LabelerQuality]:
    """The quality of every labeler. `consensus`: prompt id -> consensus rank by completion id, where there is one."""
    answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in store.rows(
        "SELECT ranking_id, labeler_id, task_id, prompt_id, kind, ranks, positions, seconds, none_acceptable "
        "FROM standing_rankings ORDER BY ranking_id"
    ):
        row["ranks"] = json.loads(row["ranks"])
        row["positions"] = json.loads(row["positions"]) if row["positions"] else None
        answers[row["labeler_id"]].append(row)
    gold: dict[str, list[dict[str, int]]] = defaultdict(list)
    for order in known_orders(store, "gold"):
        gold[order.prompt_id].append(order.ranks)
    lengths = {
        row["completion_id"]: -float(row["n"])  # longer first, as place 0 is shown first
        for row in store.rows("SELECT completion_id, length(text) AS n FROM completions")
    }
    skipped = store.rows("SELECT labeler_id, count(*) AS n FROM skips GROUP BY labeler_id")
    skips = {row["labeler_id"]: row["n"] for row in skipped}
    return [
        _quality(
            labeler,
            answers[labeler["labeler_id"]],
            skips.get(labeler["labeler_id"], 0),
            gold,
            lengths,
            consensus,
            rules,
        )
        for labeler in store.rows("SELECT * FROM labelers ORDER BY rowid")
    ]


def _quality(
    labeler: dict[str, Any],
    rows: list[dict[str, Any]],
    skips: int,
    gold: Mapping[str, list[dict[str, int]]],
    lengths: Mapping[str, float],
    consensus: Mapping[str, Mapping[str, int]] | None,
    rules: LabellingConfig,
) -> LabelerQuality:
    timed = [row["seconds"] for row in rows if row["seconds"] is not None]
    passes = [
        agreement(row["ranks"], order) >= rules.gold_agreement
        for row in rows
        for order in gold.get(row["prompt_id"], ())
        if row["kind"] != "repeat" and order.keys() <= row["ranks"].keys()
    ]
    placed = [surplus(row["ranks"], row["positions"]) for row in rows if row["positions"]]
    figures: dict[str, Figure | None] = {
        "gold_pass": wilson(sum(passes), len(passes)),
        "self_consistency": mean_figure(_repeats(rows)),
        "seconds": median_figure(timed),
        "too_fast": wilson(sum(s < rules.too_fast_seconds for s in timed), len(timed)),
        "position_bias": mean_figure([value for value in placed if value is not None]),
        "length_bias": mean_figure(_defined(surplus(row["ranks"], lengths) for row in rows)),
        "consensus_agreement": mean_figure(_with_consensus(rows, consensus or {})),
    }
    return LabelerQuality(
        labeler["labeler_id"],
        bool(labeler["simulated"]),
        _state(labeler),
        len(rows),
        skips,
        sum(row["none_acceptable"] for row in rows),
        **figures,
        undefined={
            name: _why(name, consensus is not None) for name, f in figures.items() if f is None
        },
        flags=_flags(figures, rules),
    )


def _defined(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _repeats(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """How alike each repeat is to the first answer."""
    first = {row["task_id"]: row["ranks"] for row in rows if row["kind"] == "ranking"}
    return [
        agreement(row["ranks"], first[row["task_id"]])
        for row in rows
        if row["kind"] == "repeat" and row["task_id"] in first
    ]


def _with_consensus(
    rows: Sequence[Mapping[str, Any]], consensus: Mapping[str, Mapping[str, int]]
) -> list[float]:
    shares = []
    for row in rows:
        ranks = consensus.get(row["prompt_id"], {})
        both = {c: ranks[c] for c in row["ranks"] if c in ranks}
        if len(both) > 1 and row["kind"] != "repeat":
            shares.append(agreement(row["ranks"], both))
    return shares


def _state(labeler: Mapping[str, Any]) -> str:
    if labeler["excluded"]:
        return "excluded"
    if labeler["paused"]:
        return "paused"
    return {None: "not yet practised", 0: "not qualified", 1: "qualified"}[labeler["qualified"]]


def _why(name: str, has_consensus: bool) -> str:
    if name == "consensus_agreement" and not has_consensus:
        return "There is no consensus yet: run `concord consensus`."
    return {
        "gold_pass": "No gold task has been answered.",
        "self_consistency": "Fewer than two tasks have been repeated.",
        "consensus_agreement": "Fewer than two answers are of prompts in the latest consensus.",
    }.get(name, "There are fewer than two answers to tell it from.")


def _flags(figures: Mapping[str, Figure | None], rules: LabellingConfig) -> list[str]:
    """What is wrong beyond doubt: the whole interval lies on the wrong side."""
    flags = []

    def whole(name: str) -> tuple[float, float]:
        figure = figures[name]
        return (figure.low, figure.high) if figure else (-np.inf, np.inf)

    if whole("gold_pass")[1] < rules.qualification_threshold:
        flags.append(f"Passes fewer than {rules.qualification_threshold:.0%} of the gold tasks.")
    if whole("self_consistency")[1] < CHANCE + BIAS:
        flags.append("Answers repeated tasks little better than by chance.")
    if whole("too_fast")[0] > FAST_SHARE:
        flags.append(
            f"More than {FAST_SHARE:.0%} of the answers took less than {rules.too_fast_seconds:g} s."
        )
    low, high = whole("position_bias")
    if (low > BIAS and np.isfinite(low)) or (high < -BIAS and np.isfinite(high)):
        flags.append(f"Favours what is shown {'first' if low > 0 else 'last'}.")
    if whole("consensus_agreement")[1] < CHANCE:
        flags.append("Goes against the consensus more often than with it.")
    return flags
