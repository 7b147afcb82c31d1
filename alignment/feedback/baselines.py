"""Majority and Borda: the two rules that trust every labeler alike."""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, ndtr

from alignment.feedback.pair_votes import PairVotes


def copeland_scores(votes: PairVotes, width: int) -> np.ndarray:
    """(P, K) pairs won less pairs lost, a pair going to the majority of its votes (Copeland 1951)."""
    outcome = np.sign(votes.wins - votes.losses).astype(float)
    scores = np.zeros((len(outcome), width))
    for n, (i, j) in enumerate(zip(votes.first, votes.second, strict=True)):
        scores[:, i] += outcome[:, n]
        scores[:, j] -= outcome[:, n]
    return scores


def majority_confidence(votes: PairVotes) -> np.ndarray:
    """(P, N) P(theta > 1/2) for theta ~ Beta(1 + wins, 1 + losses): that more labelers would prefer first."""
    return 1 - betainc(1.0 + votes.wins, 1.0 + votes.losses, 0.5)


def majority_probability(votes: PairVotes) -> np.ndarray:
    """(P, N) expected share that prefers first, a tie counting half for each (Laplace's rule of succession)."""
    return (votes.wins + votes.ties / 2 + 1) / (votes.wins + votes.losses + votes.ties + 2)


def borda_points(ranks: np.ndarray) -> np.ndarray:
    """(R, K) points: completions beaten less completions beaten by, halved; 0 where unranked (Borda 1781)."""
    points = np.zeros(ranks.shape)
    for k in range(ranks.shape[1]):
        other = ranks[:, k, None]
        points += np.where(other > 0, np.sign(other - ranks), 0) / 2
    return np.where(ranks > 0, points, 0.0)


def borda_scores(points: np.ndarray, ranks: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(P, K) mean points over the rankings that rank each completion."""
    count = np.add.reduceat((ranks > 0).astype(float), starts, axis=0)
    return np.add.reduceat(points, starts, axis=0) / np.maximum(count, 1)


def borda_confidence(
    scores: np.ndarray, ranks: np.ndarray, votes: PairVotes, starts: np.ndarray
) -> np.ndarray:
    """(P, N) Phi(difference / its standard deviation if all rankings were random).

    The difference of two ranks among n at random has the variance n (n + 1) / 6.
    """
    size = (ranks > 0).sum(axis=1).astype(float)
    variance = (
        np.add.reduceat(size * (size + 1) / 6, starts) / np.diff(np.append(starts, len(ranks))) ** 2
    )
    difference = scores[:, votes.first] - scores[:, votes.second]
    return ndtr(difference / np.sqrt(variance)[:, None])
