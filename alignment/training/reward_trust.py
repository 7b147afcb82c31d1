"""How far to trust a reward model: figures on pairs of held-out prompts, as pure functions on arrays.

A score difference d predicts that a careful labeler prefers the first with probability sigmoid(d / T); the temperature
T is fitted on validation prompts (Guo et al. 2017, arXiv:1706.04599). Calibration is measured against what the model
learns, the consensus probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

from alignment.evaluation.bootstrap import Interval, bootstrap_mean
from alignment.records import LabelerEvidence, LabelerVote, text_of
from alignment.training.reward_groups import PromptGroup

BINS = 10  # of the reliability diagram, over confidences from 0.5 to 1
WORST = 10
Scored = Sequence[tuple[PromptGroup, np.ndarray]]  # groups with their scores [C, M]


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Pairs with scores, [N] each. `difference`: score of first minus second; `sd`: that of it over the heads."""

    prompt: np.ndarray
    difference: np.ndarray
    sd: np.ndarray
    probability: np.ndarray
    prompt_tokens: np.ndarray

    @property
    def ordered(self) -> np.ndarray:
        """Pairs that the consensus puts in an order."""
        return self.probability != 0.5

    @property
    def right(self) -> np.ndarray:
        """Pairs whose scores stand in the consensus order; level scores are not right."""
        return np.sign(self.difference) == np.sign(self.probability - 0.5)


def scored_pairs(scored: Scored) -> ScoredPairs:
    """The pairs of all groups; the score is the mean over the heads."""
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for number, (group, scores) in enumerate(scored):
        by_head = scores[group.first] - scores[group.second]
        spread = by_head.std(-1, ddof=1) if scores.shape[1] > 1 else np.zeros(len(by_head))
        size = len(by_head)
        row = (
            np.full(size, number),
            by_head.mean(-1),
            spread,
            group.probability,
            np.full(size, group.prompt_tokens),
        )
        for column, part in zip(columns, row, strict=True):
            column.append(part)
    return ScoredPairs(*(np.concatenate(column) for column in columns))


def log_losses(difference: np.ndarray, probability: np.ndarray, temperature: float) -> np.ndarray:
    """Cross-entropy in nats of sigmoid(difference / temperature) against `probability`, [N]."""
    logit = difference / temperature
    return -(probability * log_expit(logit) + (1 - probability) * log_expit(-logit))


def fit_temperature(difference: np.ndarray, probability: np.ndarray) -> float:
    """The temperature of the least mean log loss, between 1/100 and 100."""
    found = minimize_scalar(
        lambda t: log_losses(difference, probability, float(np.exp(t))).mean(),
        bounds=(-np.log(100), np.log(100)),
        method="bounded",
    )
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]


def calibration(
    difference: np.ndarray, probability: np.ndarray, temperature: float
) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error, and the bins of the reliability diagram: `predicted`, `observed`, `count`.

    Each pair is turned so that the model prefers its first; `observed` is the mean probability, by the labels, that it
    does so rightly. Bins are of equal width on [0.5, 1].
    """
    predicted = expit(np.abs(difference) / temperature)
    observed = np.where(difference >= 0, probability, 1 - probability)
    place = np.minimum(((predicted - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = [
        {
            "predicted": float(predicted[place == b].mean()),
            "observed": float(observed[place == b].mean()),
            "count": int((place == b).sum()),
        }
        for b in range(BINS)
        if (place == b).any()
    ]
    gaps = [b["count"] * abs(b["predicted"] - b["observed"]) for b in bins]
    return sum(gaps) / len(predicted), bins


def interval_of(values: np.ndarray, prompts: np.ndarray, seed: int = 0) -> Interval | None:
    """Mean with a 95% interval over prompts; None without values, the whole of [0, 1] for a single prompt."""
    if not len(values):
        return None
    if len(np.unique(prompts)) < 2:
        return Interval(float(values.mean()), 0.0, 1.0)
    return bootstrap_mean(values.astype(float), prompts, seed=seed)


def accuracy_by(
    values: np.ndarray, right: np.ndarray, names: Sequence[str], edges: Sequence[float]
) -> list[dict[str, Any]]:
    """Accuracy of the pairs in each range [edge, next edge) of `values`; the last one includes its end."""
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    return [
        {"range": name, "pairs": int((place == n).sum()), "accuracy": _mean(right[place == n])}
        for n, name in enumerate(names)
        if (place == n).any()
    ]


def by_margin(pairs: ScoredPairs) -> list[dict[str, Any]]:
    """Accuracy by how sure the consensus is: the probability of the order that it gives."""
    kept = pairs.ordered
    sure = np.maximum(pairs.probability, 1 - pairs.probability)[kept]
    names = ("0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-0.9", "0.9-1")
    return accuracy_by(sure, pairs.right[kept], names, (0.5, 0.6, 0.7, 0.8, 0.9))


def by_prompt_length(pairs: ScoredPairs) -> list[dict[str, Any]]:
    """Accuracy by thirds of the prompts' lengths in tokens; fewer parts where many prompts are equally long."""
    kept = pairs.ordered
    tokens = pairs.prompt_tokens[kept]
    edges = np.unique(np.quantile(tokens, [0, 1 / 3, 2 / 3])).astype(float)
    ends = [*(np.ceil(edges[1:]) - 1), tokens.max()]
    names = [
        f"{low:.0f} tokens" if low == high else f"{low:.0f}-{high:.0f} tokens"
        for low, high in zip(np.ceil(edges), ends, strict=True)
    ]
    return accuracy_by(tokens, pairs.right[kept], names, edges.tolist())


def by_labeler_group(scored: Scored, votes: Sequence[LabelerVote]) -> list[dict[str, Any]]:
    """How often the scores order two completions as the labelers of each group did."""
    found = {group.prompt_id: (group.index, scores.mean(-1)) for group, scores in scored}
    agreed: dict[str, list[bool]] = {}
    for vote in votes:
        index, scores = found.get(vote.prompt_id, ({}, None))
        if scores is None or vote.preferred_id not in index or vote.other_id not in index:
            continue
        gap = scores[index[vote.preferred_id]] - scores[index[vote.other_id]]
        agreed.setdefault(vote.group, []).append(bool(gap > 0))
    return [
        {"group": name, "votes": len(right), "accuracy": _mean(np.array(right))}
        for name, right in sorted(agreed.items())
    ]


def ceiling(scored: Scored, votes: Sequence[LabelerVote]) -> dict[str, Interval | None]:
    """How often labelers' votes go with the consensus order of held-out pairs: what a model can hope for.

    `left_out`: votes of trusted labelers (those who are not flagged) against the consensus of the other labelers. Like
    the model's, these orders had no part in what they are held against. `trusted`, `all`: votes of trusted or all
    labelers against the consensus that they helped to make, which agrees with them more often for that reason.
    """
    order = {}
    for number, (group, _) in enumerate(scored):
        for i, j, p in zip(group.first, group.second, group.probability, strict=True):
            if p != 0.5:
                order[group.prompt_id, i, j] = (number, p > 0.5)
                order[group.prompt_id, j, i] = (number, p < 0.5)
    places = {group.prompt_id: group.index for group, _ in scored}
    rows = []
    for vote in votes:
        index = places.get(vote.prompt_id, {})
        key = (vote.prompt_id, index.get(vote.preferred_id), index.get(vote.other_id))
        if key in order:
            rows.append((*order[key], vote.trusted))
    numbers = {group.prompt_id: number for number, (group, _) in enumerate(scored)}
    left_out = np.array(
        [
            (numbers[vote.prompt_id], vote.with_others)
            for vote in votes
            if vote.trusted and vote.with_others is not None and vote.prompt_id in numbers
        ],
        dtype=float,
    ).reshape(-1, 2)
    table = np.array(rows, dtype=float).reshape(-1, 3)
    trusted = table[table[:, 2] > 0]
    return {
        "left_out": interval_of(left_out[:, 1], left_out[:, 0]),
        "trusted": interval_of(trusted[:, 1], trusted[:, 0]),
        "all": interval_of(table[:, 1], table[:, 0]),
    }


def bias(
    fit_on: Scored, measure_on: Scored, quantity: Mapping[str, Sequence[float | None]]
) -> dict[str, float | None]:
    """How the score goes with a quantity that should not decide it, among the completions of one prompt.

    `quantity`: prompt id -> its value for each completion, None where it is not known. `correlation`: Pearson's, of
    score and quantity, both centred within prompts, on `measure_on`; `labels` the same for the consensus' own
    preference (the mean probability of being preferred); `slope`: score per unit on `fit_on`; `corrected`: the
    correlation that is left after taking slope times quantity off the score.
    """
    fitted, measured = (_centred(part, quantity) for part in (fit_on, measure_on))
    x, score, label = measured
    slope = _slope(fitted[0], fitted[1])
    return {
        "correlation": _correlation(x, score),
        "labels": _correlation(x, label),
        "slope": slope,
        "corrected": None if slope is None else _correlation(x, score - slope * x),
    }


def lengths(scored: Scored) -> dict[str, list[float | None]]:
    """Prompt id -> tokens of each completion."""
    return {group.prompt_id: group.lengths.astype(float).tolist() for group, _ in scored}


def places_shown(scored: Scored, evidence: LabelerEvidence) -> dict[str, list[float | None]]:
    """Prompt id -> mean place at which each completion was shown."""
    table = {}
    for group, _ in scored:
        row: list[float | None] = [None] * len(group.completions)
        for completion_id, place in group.index.items():
            row[place] = evidence.positions.get(completion_id)
        table[group.prompt_id] = row
    return table


def _centred(
    scored: Scored, quantity: Mapping[str, Sequence[float | None]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantity, score and label of each completion where the quantity is known, minus their means in the prompt."""
    parts = []
    for group, scores in scored:
        values = np.array([np.nan if v is None else v for v in quantity[group.prompt_id]], float)
        label, seen = np.zeros(len(values)), np.zeros(len(values))
        for i, j, p in zip(group.first, group.second, group.probability, strict=True):
            label[i], label[j] = label[i] + p, label[j] + 1 - p
            seen[i], seen[j] = seen[i] + 1, seen[j] + 1
        rows = np.stack([values, scores.mean(-1), label / np.maximum(seen, 1)])
        rows = rows[:, np.isfinite(values)]
        if rows.shape[1] > 1:
            parts.append(rows - rows.mean(axis=1, keepdims=True))
    joined = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    return joined[0], joined[1], joined[2]


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale > 1e-12 else None


def _slope(x: np.ndarray, y: np.ndarray) -> float | None:
    return float((x * y).sum() / (x**2).sum()) if (x**2).sum() > 1e-12 else None


def uncertainty(pairs: ScoredPairs) -> dict[str, float | None]:
    """Does the heads' spread know where the model errs? Accuracy of the surer and of the less sure half of the pairs.

    Sure is a difference that is large for its standard deviation over the heads.
    """
    kept = pairs.ordered & (pairs.sd > 0)
    ratio, right = np.abs(pairs.difference[kept]) / pairs.sd[kept], pairs.right[kept]
    if len(ratio) < 2:
        return {"accuracy_surer_half": None, "accuracy_other_half": None}
    surer = ratio > np.median(ratio)
    return {
        "accuracy_surer_half": _mean(right[surer]),
        "accuracy_other_half": _mean(right[~surer]),
    }


def worst(scored: Scored, temperature: float, count: int = WORST) -> list[dict[str, Any]]:
    """The held-out pairs of the highest loss, with their texts."""
    rows = []
    for group, scores in scored:
        mean = scores.mean(-1)
        losses = log_losses(mean[group.first] - mean[group.second], group.probability, temperature)
        for n in range(len(losses)):
            i, j, p = int(group.first[n]), int(group.second[n]), float(group.probability[n])
            if p < 0.5:
                i, j, p = j, i, 1 - p
            if p > 0.5 and mean[i] <= mean[j]:
                rows.append(
                    {
                        "prompt_id": group.prompt_id,
                        "prompt": text_of(group.prompt),
                        "chosen": group.completions[i],
                        "rejected": group.completions[j],
                        "probability": p,
                        "chosen_score": float(mean[i]),
                        "rejected_score": float(mean[j]),
                        "loss": float(losses[n]),
                    }
                )
    return sorted(rows, key=lambda row: -row["loss"])[:count]


def distribution(scores: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation (what PPO normalises by), quantiles and histogram of scores [n]."""
    counts, edges = np.histogram(scores, bins=20)
    return {
        "mean": float(scores.mean()),
        "std": float(max(scores.std(), 1e-6)),
        "quantiles": {
            str(q): float(np.quantile(scores, q)) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        },
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
