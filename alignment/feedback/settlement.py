"""Known orders in a consensus: gold, which anchors the labelers, and adjudications. Both settle their prompts.

Gold enters the fit as rankings of a labeler who is always right. An adjudication does not: experts are asked about
disputed prompts, which are no fair sample of anybody's work, and a few of them against a unanimous vote could turn
the sign of all labelers.

Whatever the method and the votes say, completions that a known order ranks stand in that order, level where it puts
them level. Several known orders of one prompt, of different completions, go together as long as they do not
contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import numpy as np

from alignment.errors import InputError
from alignment.feedback.consensus_orders import Orders
from alignment.feedback.dawid_skene import GOLD_ACCURACY
from alignment.feedback.pair_votes import PairVotes
from alignment.feedback.ranking_table import (
    ADJUDICATOR,
    GOLD_LABELER,
    RankingTable,
    known_labelers,
    normal_scores,
)
from alignment.records import Ranking, check_ranks

Ranks = Mapping[str, int]
KnownOrders = Mapping[str, Ranks | Sequence[Ranks]]  # prompt id -> its known order, or several

DECISIVE = 1e9  # trust in a known order, beside at most 1 in a person


def known_rankings(
    rankings: Iterable[Ranking],
    gold: KnownOrders,
    adjudicated: KnownOrders,
    completion_ids: Mapping[str, Sequence[str]] | None = None,
) -> list[Ranking]:
    """Known orders as rankings of GOLD_LABELER and ADJUDICATOR, for the prompts that somebody ranked.

    Raises `InputError` where an order is no ranking, names a completion that its prompt does not have, or contradicts
    another order of the same prompt.
    """
    ranked = {ranking.prompt_id for ranking in rankings}
    result = []
    for prompt_id in sorted(ranked & (gold.keys() | adjudicated.keys())):
        by_source = {
            GOLD_LABELER: _listed(gold, prompt_id),
            ADJUDICATOR: _listed(adjudicated, prompt_id),
        }
        orders = [order for given in by_source.values() for order in given]
        for order in orders:
            _check(prompt_id, order, completion_ids)
        if contradictory(orders):
            raise InputError(
                f"The known orders of prompt {prompt_id!r} contradict each other. Withdraw those that are wrong."
            )
        result += [
            Ranking(prompt_id, source, dict(order))
            for source, given in by_source.items()
            for order in given
        ]
    return result


def _listed(known: KnownOrders, prompt_id: str) -> list[Ranks]:
    given = known.get(prompt_id, [])
    return [given] if isinstance(given, Mapping) else list(given)


def _check(
    prompt_id: str, order: Ranks, completion_ids: Mapping[str, Sequence[str]] | None
) -> None:
    try:
        check_ranks(dict(order))
    except InputError as error:
        raise InputError(
            f"The known order of prompt {prompt_id!r} cannot be used: {error}"
        ) from None
    unknown = set() if completion_ids is None else order.keys() - set(completion_ids[prompt_id])
    if unknown:
        raise InputError(
            f"The known order of prompt {prompt_id!r} names completions that this prompt does not have: "
            f"{', '.join(map(repr, sorted(unknown)))}. Correct their ids, or import them first."
        )


def contradictory(orders: Sequence[Ranks]) -> bool:
    """Whether no order of all the completions agrees with every one of `orders`, ties included."""
    group: dict[str, str] = {}  # completion -> the completion that stands for those level with it

    def find(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    steps: list[tuple[list[str], list[str]]] = []
    for order in orders:
        levels = [[n for n in order if order[n] == r] for r in sorted(set(order.values()))]
        for level in levels:
            for name in level[1:]:
                group[find(name)] = find(level[0])
        steps += pairwise(levels)
    graph: TopologicalSorter[str] = TopologicalSorter()
    for better, worse in steps:
        graph.add(find(worse[0]), find(better[0]))
    try:
        graph.prepare()
    except CycleError:
        return True
    return any(find(better[0]) == find(worse[0]) for better, worse in steps)


def settled_prompts(table: RankingTable) -> np.ndarray:
    """(P,) bool: the prompt has a known order."""
    settled = np.zeros(len(table.prompt_ids), bool)
    settled[table.prompt[known_labelers(table)[table.labeler]]] = True
    return settled


def settle(orders: Orders, table: RankingTable, votes: PairVotes) -> Orders:
    """`orders` with the known orders of `table` put in force.

    The completions of a known order keep the middle of their scores and take its normal scores around it. A pair that
    it orders is as sure as GOLD_ACCURACY at least, and a typical labeler prefers its better one at least as often as
    not; a pair that it puts level is level. A pair that it does not rank and that then goes against the scores is as
    good as level.
    """
    anchors = known_labelers(table)
    rows = np.flatnonzero(anchors[table.labeler])
    if not len(rows):
        return orders
    score = _settled_scores(orders.score, table, rows)
    row, pair = np.nonzero(votes.cast[rows])
    prompt, vote = table.prompt[rows][row], votes.vote[rows][row, pair]
    confidence = orders.confidence.copy()
    known = np.zeros(confidence.shape, bool)
    known[prompt, pair] = True
    gap = score[:, votes.first] - score[:, votes.second]
    against = (confidence - 0.5) * gap < 0
    against[~settled_prompts(table)] = False
    confidence[against & ~known] = 0.5
    sure = np.abs(confidence[prompt, pair] - 0.5) + 0.5
    confidence[prompt, pair] = 0.5 + vote * (np.maximum(sure, GOLD_ACCURACY) - 0.5)

    def probability() -> np.ndarray:
        likely = orders.probability().copy()
        likely[prompt, pair] = 0.5 + vote * np.abs(likely[prompt, pair] - 0.5)
        return likely

    trust = np.where(anchors, DECISIVE, orders.trust)
    return replace(orders, score=score, confidence=confidence, probability=probability, trust=trust)


def _settled_scores(score: np.ndarray, table: RankingTable, rows: np.ndarray) -> np.ndarray:
    """(P, K) the scores with those of the `rows` of known orders in the known order."""
    score = score.copy()
    prompt, ranks = table.prompt[rows], table.ranks[rows]
    inside = ranks > 0
    middle = np.where(inside, score[prompt], 0).sum(axis=1) / inside.sum(axis=1)
    fresh = middle[:, None] + normal_scores(ranks)
    row, column = np.nonzero(inside)
    claims = np.zeros(score.shape, np.intp)
    np.add.at(claims, (prompt[row], column), 1)
    score[prompt[row], column] = fresh[row, column]
    # Known orders that share completions have to be joined: one after the other, each would undo the one before.
    for p in np.unique(prompt[row[claims[prompt[row], column] > 1]]):
        _join(score[p], ranks[prompt == p])
    return score


def _join(score: np.ndarray, orders: np.ndarray) -> None:
    """Raise the (K,) scores where one of the (G, K) `orders` wants a completion above another that stands no lower, and
    make level what it wants level. The orders do not contradict each other, so this ends."""
    changed = True
    while changed:
        changed = False
        for ranks in orders:
            for i, j in np.argwhere((ranks[:, None] <= ranks) & (ranks[:, None] > 0)):
                least = score[j] + (1 if ranks[i] < ranks[j] else 0)
                if i != j and score[i] < least:
                    score[i], changed = least, True
