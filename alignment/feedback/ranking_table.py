"""Rankings as arrays: one row per ranking, one column per completion of its prompt.

Shapes in this package: P prompts, L labelers, R rankings, K the most completions of any prompt. Rows are sorted by
prompt. A prompt's completions take the columns 0, 1, ... in the order of their ids, so that the order of the input
changes nothing. Column k of row r is unranked where `ranks[r, k] == 0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb

import numpy as np
from scipy import integrate
from scipy.special import ndtr

from alignment.errors import InputError
from alignment.records import Ranking

# These stand for known orders; they sort before all people and are nobody's id.
GOLD_LABELER, ADJUDICATOR = "\x00gold", "\x00adjudication"
KNOWN = frozenset({GOLD_LABELER, ADJUDICATOR})


@dataclass(frozen=True, slots=True)
class RankingTable:
    """Rankings as arrays, and the names of their rows and columns."""

    prompt_ids: list[str]
    labeler_ids: list[str]
    completion_ids: list[list[str]]  # per prompt, sorted: the columns
    prompt: np.ndarray  # (R,) int, ascending
    labeler: np.ndarray  # (R,) int
    ranks: np.ndarray  # (R, K) int8, 1 is best, 0 is unranked
    places: np.ndarray  # (R, K) int16, the place shown from 0, -1 is unknown
    none_acceptable: (
        np.ndarray
    )  # (R,) bool: the labeler held that no completion should be given to anybody

    @property
    def starts(self) -> np.ndarray:
        """(P + 1,) the rows of prompt p are `starts[p]:starts[p + 1]`."""
        return np.searchsorted(self.prompt, np.arange(len(self.prompt_ids) + 1))


def table_of(
    rankings: Sequence[Ranking], completion_ids: Mapping[str, Sequence[str]] | None = None
) -> RankingTable:
    """The rankings as arrays.

    Where `completion_ids` (prompt id -> its completions) is given, the rankings are checked against it.
    Raises `InputError` naming the prompt or completion that is not known, or where there are no rankings.
    """
    if not rankings:
        raise InputError(
            "There are no rankings yet. Collect or import rankings, then compute the consensus."
        )
    if completion_ids is not None:
        check_known(rankings, completion_ids)
    prompt_ids = sorted({ranking.prompt_id for ranking in rankings})
    labeler_ids = sorted({ranking.labeler_id for ranking in rankings})
    columns = _columns_of(rankings, prompt_ids)
    prompt_of = {name: p for p, name in enumerate(prompt_ids)}
    labeler_of = {name: index for index, name in enumerate(labeler_ids)}
    prompt = np.fromiter((prompt_of[r.prompt_id] for r in rankings), np.intp, len(rankings))
    labeler = np.fromiter((labeler_of[r.labeler_id] for r in rankings), np.intp, len(rankings))
    ranks, places = _fill(rankings, [columns[r.prompt_id] for r in rankings])
    # Within a prompt the rows stand by labeler, then by answer: no result depends on the order of the input.
    order = np.lexsort((*ranks.T[::-1], labeler, prompt))
    return RankingTable(
        prompt_ids,
        labeler_ids,
        [list(columns[name]) for name in prompt_ids],
        prompt[order],
        labeler[order],
        ranks[order],
        places[order],
        np.array([r.none_acceptable for r in rankings], bool)[order],
    )


def check_known(rankings: Iterable[Ranking], completion_ids: Mapping[str, Sequence[str]]) -> None:
    """`InputError` where a ranking names a prompt or a completion that `completion_ids` does not hold."""
    known = {prompt_id: frozenset(ids) for prompt_id, ids in completion_ids.items()}
    for ranking in rankings:
        if ranking.prompt_id not in known:
            raise InputError(
                f"A ranking by {ranking.labeler_id!r} is of prompt {ranking.prompt_id!r}, which is not known here. "
                "Import that prompt with its completions, or take the ranking out of the file."
            )
        unknown = ranking.ranks.keys() - known[ranking.prompt_id]
        if unknown:
            names = ", ".join(repr(name) for name in sorted(unknown))
            raise InputError(
                f"A ranking by {ranking.labeler_id!r} of prompt {ranking.prompt_id!r} names completions that this "
                f"prompt does not have: {names}. Import these completions, or correct the ids in the rankings."
            )


def _columns_of(
    rankings: Sequence[Ranking], prompt_ids: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Prompt id -> completion id -> column."""
    seen: dict[str, set[str]] = {prompt_id: set() for prompt_id in prompt_ids}
    for ranking in rankings:
        seen[ranking.prompt_id].update(ranking.ranks)
    return {p: {name: k for k, name in enumerate(sorted(names))} for p, names in seen.items()}


def _fill(
    rankings: Sequence[Ranking], columns: Sequence[dict[str, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """(R, K) dense ranks and (R, K) places."""
    width = max(len(column) for column in columns)
    cells: list[int] = []
    ranks: list[int] = []
    places: list[int] = []
    for row, (ranking, column) in enumerate(zip(rankings, columns, strict=True)):
        offset = row * width
        positions = ranking.positions
        dense = {
            rank: place for place, rank in enumerate(sorted(set(ranking.ranks.values())), start=1)
        }
        for name, rank in ranking.ranks.items():
            cells.append(offset + column[name])
            ranks.append(dense[rank])
            places.append(-1 if positions is None else positions[name])
    flat_ranks = np.zeros(len(rankings) * width, np.int8)
    flat_places = np.full(len(rankings) * width, -1, np.int16)
    flat_ranks[cells] = ranks
    flat_places[cells] = places
    return flat_ranks.reshape(-1, width), flat_places.reshape(-1, width)


def known_labelers(table: RankingTable) -> np.ndarray:
    """(L,) bool: stands for known orders, and for nobody."""
    return np.array([name in KNOWN for name in table.labeler_ids])


def people_only(table: RankingTable) -> RankingTable:
    """The table without the rows of known orders; prompts and labelers keep their numbers."""
    known = known_labelers(table)
    if not known.any():
        return table
    rows = ~known[table.labeler]
    return replace(
        table,
        prompt=table.prompt[rows],
        labeler=table.labeler[rows],
        ranks=table.ranks[rows],
        places=table.places[rows],
        none_acceptable=table.none_acceptable[rows],
    )


def normal_scores(ranks: np.ndarray) -> np.ndarray:
    """(R, K) centred normal scores of (R, K) ranks: best is highest, ties share, unranked is 0.

    The j-th best of n gets the expected j-th largest of n standard normals, tied completions the mean of the scores
    they span (Lehmann 1975, Nonparametrics, section 2.7). Divided by the mean square of the n scores, so that a
    labeler who perceives utilities with correlation rho has the slope rho on them, whatever n. Each row sums to 0.
    """
    ranked = ranks > 0
    count = ranked.sum(axis=1)
    better = np.zeros(ranks.shape, np.intp)
    level = np.zeros(ranks.shape, np.intp)
    for k in range(ranks.shape[1]):
        other = ranks[:, k, None]
        better += (other > 0) & (other < ranks)
        level += (other > 0) & (other == ranks)
    sums = _cumulative_scores(ranks.shape[1])
    of = count[:, None]
    mean = (sums[of, better + level] - sums[of, better]) / np.maximum(level, 1)
    return np.where(ranked, mean, 0.0)


@cache
def _cumulative_scores(most: int) -> np.ndarray:
    """(most + 1, most + 1): entry [n, j] is the sum of the j best of n scaled scores."""
    sums = np.zeros((most + 1, most + 1))
    for n in range(2, most + 1):
        scores = np.array([expected_order_statistic(n, j) for j in range(1, n + 1)])
        sums[n, 1 : n + 1] = np.cumsum(scores / mean_square(n))
    return sums


@cache
def mean_square(n: int) -> float:
    """The mean square of the n expected order statistics, per degree of freedom: 0.64 for 2, 0.77 for 4, 0.89 for 9.

    It is the squared correlation of utilities with their own ranks, and 1 / mean_square(n) - 1 the noise variance that
    even a perfect labeler's scaled scores have.
    """
    return sum(expected_order_statistic(n, j) ** 2 for j in range(1, n + 1)) / (n - 1)


@cache
def expected_order_statistic(n: int, j: int) -> float:
    """The expected j-th largest of n independent standard normals (Harter 1961), by quadrature."""
    if 2 * j > n + 1:
        return -expected_order_statistic(n, n + 1 - j)
    if 2 * j == n + 1:
        return 0.0
    ways = n * comb(n - 1, j - 1)

    def density(x: float) -> float:
        return (
            ways
            * ndtr(x) ** (n - j)
            * ndtr(-x) ** (j - 1)
            * np.exp(-x * x / 2)
            / np.sqrt(2 * np.pi)
        )

    value, _ = integrate.quad(lambda x: x * density(x), -9, 9)
    return value


def centred_places(places: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(R, K) display places as a centred covariate: +1 is shown first, -1 last, 0 where unknown or unranked."""
    known = (ranks > 0) & (places >= 0)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    order = np.zeros(places.shape)  # the place among the ranked ones
    for k in range(places.shape[1]):
        order += known[:, k, None] & known & (places[:, k, None] < places)
    middle = (count - 1) / 2
    return np.where(known, (middle - order) / np.maximum(middle, 0.5), 0.0)
