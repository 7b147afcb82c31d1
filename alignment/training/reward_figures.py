"""All trust figures of a trained reward model in one JSON tree: `trust.json`, which page and model card show."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from alignment.evaluation.bootstrap import Interval
from alignment.models.reward_heads import sd_quantiles
from alignment.records import LabelerEvidence
from alignment.training import reward_trust as trust
from alignment.training.reward_trust import Scored


def trust_figures(
    train: Scored, validation: Scored, held_out: Scored, evidence: LabelerEvidence, seed: int
) -> dict[str, Any]:
    """The figures of `reward_trust` on the held-out groups, by name.

    `train` gives the normalisation constants and the slopes of the biases, `validation` the temperature.
    """
    pairs, fitted = trust.scored_pairs(held_out), trust.scored_pairs(validation)
    temperature = trust.fit_temperature(fitted.difference, fitted.probability)
    kept = pairs.ordered
    accuracy = trust.interval_of(pairs.right[kept], pairs.prompt[kept], seed)
    limits = trust.ceiling(held_out, evidence.votes)
    every = [*train, *held_out]
    scores = np.concatenate([scores.mean(-1) for _, scores in train])
    return {
        "held_out_prompts": len(held_out),
        "held_out_pairs": int(kept.sum()),
        "accuracy": _row(accuracy),
        "ceiling": _row(limits["left_out"]),
        "ceiling_own_consensus": _row(limits["trusted"]),
        "ceiling_all_labelers": _row(limits["all"]),
        "accuracy_of_ceiling": _ratio(accuracy, limits["left_out"]),
        "temperature": temperature,
        "log_loss": {
            "before": float(trust.log_losses(pairs.difference, pairs.probability, 1.0).mean()),
            "after": float(
                trust.log_losses(pairs.difference, pairs.probability, temperature).mean()
            ),
            "of_labels": _entropy(pairs.probability),
        },
        "calibration": _calibration(pairs, temperature),
        "by_margin": trust.by_margin(pairs),
        "by_prompt_length": trust.by_prompt_length(pairs),
        "by_labeler_group": trust.by_labeler_group(held_out, evidence.votes),
        "length_bias": trust.bias(train, held_out, trust.lengths(every)),
        "position_bias": trust.bias(train, held_out, trust.places_shown(every, evidence)),
        "scores": trust.distribution(scores),
        "uncertainty": _uncertainty(train, pairs),
        "worst": trust.worst(held_out, temperature),
    }


def _calibration(pairs: trust.ScoredPairs, temperature: float) -> dict[str, Any]:
    before, raw = trust.calibration(pairs.difference, pairs.probability, 1.0)
    after, bins = trust.calibration(pairs.difference, pairs.probability, temperature)
    return {"ece_before": before, "ece": after, "bins": bins, "bins_before": raw}


def _uncertainty(train: Scored, pairs: trust.ScoredPairs) -> dict[str, Any] | None:
    if train[0][1].shape[1] < 2:
        return None
    deviations = np.concatenate([scores.std(-1, ddof=1) for _, scores in train])
    return {"sd_quantiles": sd_quantiles(deviations), **trust.uncertainty(pairs)}


def _entropy(probability: np.ndarray) -> float:
    """Mean entropy of the labels in nats: no model can have a lower log loss."""
    q = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(-(q * np.log(q) + (1 - q) * np.log(1 - q)).mean())


def _row(value: Interval | None) -> dict[str, float] | None:
    return None if value is None else asdict(value)


def _ratio(value: Interval | None, limit: Interval | None) -> float | None:
    return None if value is None or limit is None or limit.mean == 0 else value.mean / limit.mean
