"""When a run ends before its last iteration, as decisions on the figures of its iterations. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.config import PPOTrainingConfig

STOP_FILE = "stop"  # put into the run's folder, it ends the run after the iteration under way
BY_HAND = "stopped by hand"
Row = Mapping[str, Any]


def stop_reason(rows: Sequence[Row], config: PPOTrainingConfig) -> str | None:
    """Why training should end after the last of `rows` (one per iteration), or None."""
    row = rows[-1]
    low = row.get("eval_reward_low")
    if config.reward_threshold is not None and low is not None and low >= config.reward_threshold:
        return "reward threshold"
    if config.max_kl is not None and row["kl"] > config.max_kl:
        return "KL limit"
    return collapse(rows, config)


def collapse(rows: Sequence[Row], config: PPOTrainingConfig) -> str | None:
    """What has collapsed in each of the last `collapse_patience` iterations, measured against the first, or None."""
    latest = rows[-config.collapse_patience :]
    if len(rows) <= config.collapse_patience:
        return None
    for figure, share in {
        "entropy": config.collapse_entropy,
        "mean_length": config.collapse_length,
        "finished": config.collapse_finished,
    }.items():
        if share is not None and _fell(rows[0], latest, figure, share):
            name = figure.removeprefix("mean_")
            return f"collapse: {name} fell from {rows[0][figure]:.3g} to {latest[-1][figure]:.3g}"
    limit = config.collapse_repetition
    if limit is not None and _repeats(rows[0], latest, limit):
        before, after = rows[0]["repetition"], latest[-1]["repetition"]
        return f"collapse: repeated text rose from {before:.0%} to {after:.0%} of the 4-grams"
    return None


def _fell(first: Row, latest: Sequence[Row], figure: str, share: float) -> bool:
    start = first.get(figure)
    return bool(start) and all(row.get(figure, start) < share * start for row in latest)


def _repeats(first: Row, latest: Sequence[Row], limit: float) -> bool:
    """Whether repetition rose by `limit` of what there was to rise, from its start to 1."""
    start = first.get("repetition", 0.0)
    return all(row.get("repetition", 0.0) - start > limit * (1 - start) for row in latest)
