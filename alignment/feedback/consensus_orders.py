"""A method's answer on arrays: scores, confidences and ranks, and how far each labeler goes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignment.feedback import baselines
from alignment.feedback.dawid_skene import OneCoinFit
from alignment.feedback.factor_fit import (
    FactorFit,
    honest_preference,
    order_confidence,
    pair_differences,
)
from alignment.feedback.pair_votes import PairVotes
from alignment.feedback.ranking_table import RankingTable

LEVEL = 1e-9  # scores, or confidences around a half, closer than this are level


@dataclass(frozen=True, slots=True)
class Orders:
    """What every output is made of, whatever the method."""

    score: np.ndarray  # (P, K) higher is better
    confidence: np.ndarray  # (P, N) that first is truly better than second
    probability: Callable[
        [], np.ndarray
    ]  # (P, N) that a typical honest labeler prefers first; made when asked for
    trust: np.ndarray  # (L,) weight of a labeler's tie, 0 or more


def factor_orders(fit: FactorFit, votes: PairVotes) -> Orders:
    """Orders by posterior mean utility."""
    mean, variance = pair_differences(fit, votes.first, votes.second)
    return Orders(
        fit.utilities.mean,
        order_confidence(mean, variance),
        lambda: honest_preference(mean, variance, fit.hyper, fit.layout.shared_loss),
        np.maximum(fit.labelers.b, 0),
    )


def coin_orders(fit: OneCoinFit, votes: PairVotes, width: int) -> Orders:
    """Orders by the expected number of other completions that each one beats."""
    confidence = fit.first_better + fit.level / 2
    score = np.zeros((len(confidence), width))
    cast = votes.wins + votes.losses + votes.ties > 0
    for n, (i, j) in enumerate(zip(votes.first, votes.second, strict=True)):
        margin = np.where(cast[:, n], fit.first_better[:, n] - fit.second_better[:, n], 0)
        score[:, i] += margin
        score[:, j] -= margin
    honest = fit.coins.direction[fit.coins.direction > 0.5]
    typical = float(np.median(honest)) if len(honest) else 0.5

    def probability() -> np.ndarray:
        return fit.first_better * typical + fit.second_better * (1 - typical) + fit.level / 2

    return Orders(score, confidence, probability, np.maximum(2 * fit.coins.accuracy - 1, 0))


def consensus_ranks(table: RankingTable, votes: PairVotes, orders: Orders) -> np.ndarray:
    """(P, K) competition ranks, 1 is best, 0 where nobody ranked the completion.

    Neighbours in the order tie where their scores are level or where the trusted votes for a tie outweigh those for
    either order.
    """
    starts = table.starts[:-1]
    width = table.ranks.shape[1]
    tie = np.zeros((len(starts), width, width), bool)
    if votes.ties.any():
        trust = orders.trust[table.labeler][:, None]
        level = np.add.reduceat(trust * (votes.cast & (votes.vote == 0)), starts, axis=0)
        ordered = np.add.reduceat(trust * (votes.vote != 0), starts, axis=0)
        tie[:, votes.first, votes.second] = tie[:, votes.second, votes.first] = level > ordered
    present = np.maximum.reduceat(table.ranks, starts, axis=0) > 0
    score = np.where(present, orders.score, -np.inf)
    order = np.argsort(-score, axis=1, kind="stable")
    sorted_score = np.take_along_axis(score, order, axis=1)
    ranks = np.zeros((len(starts), width), np.int8)
    current = np.ones(len(starts), np.int8)
    prompts = np.arange(len(starts))
    for place in range(width):
        if place:
            with np.errstate(invalid="ignore"):
                near = sorted_score[:, place - 1] - sorted_score[:, place] <= LEVEL
            level_here = near | tie[prompts, order[:, place - 1], order[:, place]]
            current = np.where(level_here, current, place + 1)
        ranks[prompts, order[:, place]] = current
    return np.where(present, ranks, 0).astype(np.int8)


def labeler_agreement(table: RankingTable, votes: PairVotes, ranks: np.ndarray) -> np.ndarray:
    """(L,) share of a labeler's ordered votes that go with the consensus order; NaN without any."""
    direction = np.sign(ranks[:, votes.second] - ranks[:, votes.first])[table.prompt]
    both = (votes.vote != 0) & (direction != 0)
    size = len(table.labeler_ids)
    same = np.bincount(table.labeler, (both & (votes.vote == direction)).sum(axis=1), size)
    total = np.bincount(table.labeler, both.sum(axis=1), size)
    return np.where(total > 0, same / np.maximum(total, 1), np.nan)


def majority_orders(table: RankingTable, votes: PairVotes) -> Orders:
    """Orders by pairs won, each pair by the majority of its votes."""
    return Orders(
        baselines.copeland_scores(votes, table.ranks.shape[1]),
        baselines.majority_confidence(votes),
        lambda: baselines.majority_probability(votes),
        np.ones(len(table.labeler_ids)),
    )


def borda_orders(table: RankingTable, votes: PairVotes) -> Orders:
    """Orders by mean Borda points."""
    starts = table.starts[:-1]
    score = baselines.borda_scores(baselines.borda_points(table.ranks), table.ranks, starts)
    return Orders(
        score,
        baselines.borda_confidence(score, table.ranks, votes, starts),
        lambda: baselines.majority_probability(votes),
        np.ones(len(table.labeler_ids)),
    )
