"""The one-coin model of Dawid and Skene (1979, Applied Statistics 28:20) on pairs of completions.

Every pair of every prompt is truly ordered one way or the other, or level. A labeler who calls one completion better
names the truly better one with accuracy a[l], whatever the pair. All labelers say "level" with probability
`tie_if_level` where the pair is level and `tie_if_ordered` where it is not; in the accuracy, a tie on an ordered pair
counts as half right, with less weight. Without ties in the data no pair is level and this is the textbook model.
Accuracies have Jeffreys' Beta prior, so that three right answers do not make a perfect labeler. Fitted by EM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignment.feedback.pair_votes import PairVotes

RIGHT_PRIOR, WRONG_PRIOR = 0.5, 0.5  # pseudo-counts of Jeffreys' Beta prior over accuracies
GOLD_ACCURACY = 0.99
TIE_WEIGHT = 0.25  # of a tie on an ordered pair beside an ordered vote; chosen on PandaLM, where it decides accuracy
MAX_ITERATIONS = 100
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Coins:
    """Accuracies (L,), `direction` those of ordered votes alone, and what all labelers share about ties."""

    accuracy: np.ndarray
    direction: np.ndarray
    level_share: float
    tie_if_level: float
    tie_if_ordered: float


@dataclass(frozen=True, slots=True)
class OneCoinFit:
    """Posterior of each pair's true order, (P, N) each, summing to 1, and the coins."""

    first_better: np.ndarray
    second_better: np.ndarray
    level: np.ndarray
    coins: Coins
    iterations: int
    converged: bool


def fit_one_coin(
    votes: PairVotes,
    prompt: np.ndarray,
    labeler: np.ndarray,
    weight: np.ndarray,
    anchored: np.ndarray,
    before: OneCoinFit | None = None,
) -> OneCoinFit:
    """EM from equal accuracies, or from those of `before`.

    (R,) prompt (ascending), labeler and weight of each row of `votes`. `anchored` (L,): labelers whose accuracy stays
    at GOLD_ACCURACY.
    """
    starts = np.flatnonzero(np.r_[True, np.diff(prompt) > 0])
    tied = votes.cast & (votes.vote == 0)
    equal = np.where(anchored, GOLD_ACCURACY, 0.75)
    coins = Coins(equal, equal, 0.1 if tied.any() else 0.0, 0.6, 0.1)
    if before is not None and len(before.coins.accuracy) == len(anchored):
        coins = before.coins if tied.any() == (before.coins.level_share > 0) else coins
    ties = np.add.reduceat(weight[:, None] * tied, starts, axis=0)
    orders = np.add.reduceat(weight[:, None] * (votes.vote != 0), starts, axis=0)
    ordered = weight[:, None] * (votes.vote != 0)
    converged, iterations = False, 0
    posterior = infer_orders(coins, votes.vote, labeler, weight, starts, ties, orders)
    while not converged and iterations < MAX_ITERATIONS:
        iterations += 1
        plus, minus, level = posterior
        right = (ordered * np.where(votes.vote > 0, plus[prompt], minus[prompt])).sum(axis=1)
        decided = (ordered * (1 - level)[prompt]).sum(axis=1)
        missed = TIE_WEIGHT * (weight[:, None] * tied * (1 - level)[prompt]).sum(axis=1)
        direction = _accuracies(right, decided, labeler, anchored)
        accuracy = _accuracies(right + missed / 2, decided + missed, labeler, anchored)
        moved = np.abs(accuracy - coins.accuracy).max()
        coins = Coins(accuracy, direction, *_tie_shares(coins, level, ties, orders))
        posterior = infer_orders(coins, votes.vote, labeler, weight, starts, ties, orders)
        converged = bool(moved < TOLERANCE)
    return OneCoinFit(*posterior, coins, iterations, converged)


def infer_orders(
    coins: Coins,
    vote: np.ndarray,
    labeler: np.ndarray,
    weight: np.ndarray,
    starts: np.ndarray,
    ties: np.ndarray,
    orders: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E-step: P(first better), P(second better), P(level), each (P, N).

    log P(votes | first better) = sum over ordered votes of log a[l] or log(1 - a[l]), and so on.
    """
    log_right, log_wrong = np.log(coins.accuracy)[labeler], np.log1p(-coins.accuracy)[labeler]
    right, wrong = (weight * log_right)[:, None], (weight * log_wrong)[:, None]
    plus = np.add.reduceat(
        np.where(vote > 0, right, 0) + np.where(vote < 0, wrong, 0), starts, axis=0
    )
    minus = np.add.reduceat(
        np.where(vote < 0, right, 0) + np.where(vote > 0, wrong, 0), starts, axis=0
    )
    if coins.level_share == 0:
        plus = 1 / (1 + np.exp(np.clip(minus - plus, -500, 500)))
        return plus, 1 - plus, np.zeros_like(plus)
    shared = (
        np.log((1 - coins.level_share) / 2)
        + orders * np.log1p(-coins.tie_if_ordered)
        + ties * np.log(coins.tie_if_ordered)
    )
    level = (
        np.log(coins.level_share)
        + orders * np.log((1 - coins.tie_if_level) / 2)
        + ties * np.log(coins.tie_if_level)
    )
    logs = np.stack([plus + shared, minus + shared, level])
    likelihood = np.exp(logs - logs.max(axis=0))
    posterior = likelihood / likelihood.sum(axis=0)
    return posterior[0], posterior[1], posterior[2]


def _accuracies(
    right: np.ndarray, decided: np.ndarray, labeler: np.ndarray, anchored: np.ndarray
) -> np.ndarray:
    """M-step: the posterior mean accuracy of each labeler from expected right and decided votes, (R,) each."""
    right = np.bincount(labeler, right, len(anchored)) + RIGHT_PRIOR
    decided = np.bincount(labeler, decided, len(anchored)) + RIGHT_PRIOR + WRONG_PRIOR
    return np.where(anchored, GOLD_ACCURACY, right / decided)


def _tie_shares(
    coins: Coins, level: np.ndarray, ties: np.ndarray, orders: np.ndarray
) -> tuple[float, float, float]:
    """M-step of the shared tie probabilities, each with one pseudo-observation."""
    if coins.level_share == 0:
        return 0.0, coins.tie_if_level, coins.tie_if_ordered

    def share(yes: float, no: float, expected: float) -> float:
        return float(np.clip((yes + expected) / (yes + no + 1), 1e-3, 1 - 1e-3))

    voted = ties + orders > 0
    return (
        share(level[voted].sum(), (1 - level)[voted].sum(), 0.1),
        share((level * ties).sum(), (level * orders).sum(), 0.6),
        share(((1 - level) * ties).sum(), ((1 - level) * orders).sum(), 0.1),
    )
