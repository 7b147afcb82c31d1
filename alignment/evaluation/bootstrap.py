"""Cluster bootstrap and permutation test for figures whose observations come in groups (the completions of one prompt).

Groups are drawn with replacement, whole. The interval is the expanded percentile interval (Hesterberg 2015,
doi:10.1080/00031305.2015.1089789, section 5.2), which widens the plain one as Student's t does the normal: with few
groups the plain one is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from alignment.errors import InputError

CONFIDENCE = 0.95
_CHUNK = 4_000_000  # resampled groups held in memory at once
_EVEN = 1e-12  # statistics closer than this are equal but for rounding


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its 95% interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Interval:
        return cls(float(row["mean"]), float(row["low"]), float(row["high"]))


def bootstrap_mean(
    values: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of `values` [n] with the 95% interval of a cluster bootstrap over `groups` [n] (prompts).

    Whole groups are drawn with replacement; the mean is over values, so larger groups weigh more.
    Raises `InputError` with fewer than two groups: one prompt says nothing about others.
    """
    values = np.asarray(values, dtype=float)
    columns = group_sums(np.unique(groups, return_inverse=True)[1], values, np.ones_like(values))
    drawn = resampled_sums(columns, resamples, seed)
    return interval(values.mean(), drawn[:, 0] / drawn[:, 1], len(columns))


def group_sums(groups: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Sums of each column [n] per group, shape [groups, columns]; groups are numbered from 0."""
    return np.stack([np.bincount(groups, weights=column) for column in columns], axis=1)


def resampled_sums(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums over groups drawn with replacement: [groups, columns] -> [resamples, columns]."""
    groups = len(columns)
    if groups < 2:
        raise InputError(
            f"An interval needs at least 2 prompts; there is {groups}. Add held-out prompts."
        )
    if resamples < 1:
        raise InputError(f"The bootstrap needs at least 1 resample, not {resamples}.")
    rng = np.random.default_rng(seed)
    even = np.full(groups, 1 / groups)
    size = max(1, _CHUNK // groups)
    parts = [
        rng.multinomial(groups, even, size=min(size, resamples - start)) @ columns
        for start in range(0, resamples, size)
    ]
    return np.concatenate(parts)


def interval(mean: float | np.ndarray, drawn: np.ndarray, groups: int) -> Interval:
    """Expanded percentile interval: quantile levels Phi(-+ sqrt(g / (g - 1)) t[g - 1])."""
    tail = (1 - CONFIDENCE) / 2
    spread = np.sqrt(groups / (groups - 1)) * student_t.isf(tail, groups - 1)
    low, high = np.quantile(drawn, norm.cdf([-spread, spread]))
    return Interval(float(mean), float(low), float(high))


def permutation_test(
    before: np.ndarray, after: np.ndarray, permutations: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the difference of two means, swapping the two sides within groups (prompts).

    `before`, `after`: sum and count per group, shape [groups, 2]. Under the null hypothesis the label of a side means
    nothing within a group, so each group is swapped or left with even chances. All 2^groups swaps are taken where that
    is no more than `permutations`; otherwise p = (1 + hits) / (1 + permutations), which is never 0 (Phipson and Smyth
    2010, doi:10.2202/1544-6115.1585).
    """
    groups, total = len(before), np.stack([before.sum(0), after.sum(0)])
    moved = before - after
    exact = groups < 40 and 2**groups <= permutations
    count = 2**groups if exact else permutations
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // groups)
    observed = abs(_difference(total[0], total[1])) - _EVEN
    hits = 0
    for start in range(0, count, size):
        length = min(size, count - start)
        if exact:
            numbers = np.arange(start, start + length)[:, None]
            swaps = ((numbers >> np.arange(groups)) & 1).astype(float)
        else:
            swaps = rng.integers(0, 2, (length, groups), dtype=np.int8).astype(float)
        carried = swaps @ moved
        hits += int((abs(_difference(total[0] - carried, total[1] + carried)) >= observed).sum())
    return hits / count if exact else (1 + hits) / (1 + count)


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mean after minus mean before, from sums and counts [..., 2]."""
    return after[..., 0] / after[..., 1] - before[..., 0] / before[..., 1]
