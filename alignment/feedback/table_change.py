"""One more ranking in a table, and what has to be spliced elsewhere because of it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from alignment.feedback.ranking_table import RankingTable, table_of
from alignment.records import Ranking


@dataclass(frozen=True, slots=True)
class TableChange:
    """How a table changed: the rows `start:stop` gave way to the rows of `part`, the table of that prompt alone."""

    part: RankingTable
    start: int
    stop: int
    prompt: int
    new_prompt: bool
    labelers: np.ndarray  # (L,) each labeler's number before, -1 is new

    def spliced(self, before: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """(R, ...) rows: those of the part from `fresh`, all others from `before`."""
        if before.ndim == 2:
            width = max(before.shape[1], fresh.shape[1])
            before, fresh = _widened(before, width), _widened(fresh, width)
        return np.concatenate([before[: self.start], fresh, before[self.stop :]])

    def with_prompt(self, before: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """(P,) figures of prompts: that of the changed prompt from `fresh` (1,), all others from `before`."""
        after = self.prompt if self.new_prompt else self.prompt + 1
        return np.concatenate([before[: self.prompt], fresh, before[after:]])


def _widened(rows: np.ndarray, width: int) -> np.ndarray:
    return rows if rows.shape[1] == width else np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def with_ranking(
    table: RankingTable, ranking: Ranking, *, repeat: bool = False
) -> tuple[RankingTable, TableChange]:
    """The table with one more ranking. It supersedes an earlier one of the same completions by the same labeler, unless
    it is a `repeat`, which stands beside the earlier one."""
    p = bisect_left(table.prompt_ids, ranking.prompt_id)
    new_prompt = p == len(table.prompt_ids) or table.prompt_ids[p] != ranking.prompt_id
    start = int(np.searchsorted(table.prompt, p))
    stop = start if new_prompt else int(np.searchsorted(table.prompt, p + 1))
    kept = [row for row in _rankings(table, start, stop) if repeat or not _same_task(row, ranking)]
    part = table_of([*kept, ranking])
    labeler_ids = sorted({*table.labeler_ids, ranking.labeler_id})
    number = {name: index for index, name in enumerate(labeler_ids)}
    earlier = {name: index for index, name in enumerate(table.labeler_ids)}
    labelers = np.array([earlier.get(name, -1) for name in labeler_ids])
    moved = np.array([number[name] for name in table.labeler_ids])
    change = TableChange(part, start, stop, p, new_prompt, labelers)
    after = p if new_prompt else p + 1
    fresh = np.array([number[part.labeler_ids[index]] for index in part.labeler])
    shifted = table.prompt + (table.prompt >= p) if new_prompt else table.prompt
    grown = RankingTable(
        [*table.prompt_ids[:p], ranking.prompt_id, *table.prompt_ids[after:]],
        labeler_ids,
        [*table.completion_ids[:p], part.completion_ids[0], *table.completion_ids[after:]],
        change.spliced(shifted, np.full(len(fresh), p)),
        change.spliced(moved[table.labeler], fresh),
        change.spliced(table.ranks, part.ranks),
        change.spliced(table.places, part.places),
        change.spliced(table.none_acceptable, part.none_acceptable),
    )
    part = replace(part, labeler_ids=labeler_ids, labeler=fresh)
    return grown, TableChange(part, start, stop, p, new_prompt, labelers)


def _same_task(earlier: Ranking, later: Ranking) -> bool:
    return earlier.labeler_id == later.labeler_id and earlier.ranks.keys() == later.ranks.keys()


def _rankings(table: RankingTable, start: int, stop: int) -> list[Ranking]:
    """Rows of a table as rankings again."""
    rankings = []
    for row in range(start, stop):
        p = int(table.prompt[row])
        ranks, places = {}, {}
        for k, name in enumerate(table.completion_ids[p]):
            if table.ranks[row, k]:
                ranks[name] = int(table.ranks[row, k])
                places[name] = int(table.places[row, k])
        shown = None if min(places.values()) < 0 else places
        rankings.append(
            Ranking(
                table.prompt_ids[p],
                table.labeler_ids[int(table.labeler[row])],
                ranks,
                shown,
                none_acceptable=bool(table.none_acceptable[row]),
            )
        )
    return rankings
