"""Rankings as votes on pairs of completions. N = K (K - 1) / 2 pairs of columns, first < second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class PairVotes:
    """Each ranking's vote on each pair, and the counts per prompt."""

    first: np.ndarray  # (N,) column
    second: np.ndarray  # (N,) column
    vote: np.ndarray  # (R, N) int8: 1 prefers first, -1 prefers second, 0 is a tie or no vote
    cast: np.ndarray  # (R, N) bool: both completions are ranked
    wins: np.ndarray  # (P, N) votes for first
    losses: np.ndarray  # (P, N) votes for second
    ties: np.ndarray  # (P, N) votes that they are level


def votes_of(ranks: np.ndarray, starts: np.ndarray) -> PairVotes:
    """The votes in (R, K) ranks, 0 unranked; rows sorted by prompt, prompt p beginning at row `starts[p]`."""
    first, second = np.triu_indices(ranks.shape[1], 1)
    left, right = ranks[:, first], ranks[:, second]
    cast = (left > 0) & (right > 0)
    vote = np.where(cast, np.sign(right - left), 0).astype(np.int8)

    def count(which: np.ndarray) -> np.ndarray:
        return np.add.reduceat(which.astype(np.int32), starts, axis=0)

    return PairVotes(
        first, second, vote, cast, count(vote > 0), count(vote < 0), count(cast & (vote == 0))
    )


def linked_pairs(votes: PairVotes, width: int) -> np.ndarray:
    """(P, N) bool: pairs that one ranking, or a chain of rankings of the same prompt, compares."""
    compared = votes.wins + votes.losses + votes.ties > 0
    present = np.zeros((len(compared), width), bool)
    for n, (i, j) in enumerate(zip(votes.first, votes.second, strict=True)):
        present[:, i] |= compared[:, n]
        present[:, j] |= compared[:, n]
    linked = compared.copy()
    gaps = (present[:, votes.first] & present[:, votes.second] & ~compared).any(axis=1)
    if gaps.any():
        reach = np.zeros((int(gaps.sum()), width, width), bool)
        reach[:, votes.first, votes.second] = compared[gaps]
        reach |= reach.transpose(0, 2, 1)
        for k in range(width):  # Warshall 1962: paths through completion k
            reach |= reach[:, :, k, None] & reach[:, None, k, :]
        linked[gaps] = reach[:, votes.first, votes.second]
    return linked


def spliced_votes(
    before: PairVotes,
    fresh: PairVotes,
    rows: Callable[[np.ndarray, np.ndarray], np.ndarray],
    prompts: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> PairVotes:
    """The votes with those of one prompt exchanged for `fresh`; `rows` and `prompts` splice arrays of either."""
    return replace(
        before,
        vote=rows(before.vote, fresh.vote),
        cast=rows(before.cast, fresh.cast),
        wins=prompts(before.wins, fresh.wins),
        losses=prompts(before.losses, fresh.losses),
        ties=prompts(before.ties, fresh.ties),
    )
