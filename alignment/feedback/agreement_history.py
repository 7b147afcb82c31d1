"""Agreement over time: is the labelling getting better, or has something gone wrong last Tuesday?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alignment.feedback import agreement
from alignment.feedback.consensus import Consensus
from alignment.feedback.pair_votes import votes_of
from alignment.feedback.ranking_table import people_only

MOST_BATCHES = 12
FEWEST_PROMPTS = 8  # in a batch


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that were completed one after the other. `first` and `last`: the moments of their last rankings.

    `alpha`: Krippendorff's, ordinal, with 95% bootstrap interval; `with_consensus`: share of the ordered votes that go
    with the consensus order. None where a figure is not defined.
    """

    first: str
    last: str
    prompts: int
    rankings: int
    alpha: float | None
    alpha_low: float | None
    alpha_high: float | None
    with_consensus: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def agreement_over_time(
    consensus: Consensus, moments: Mapping[str, str], seed: int = 0
) -> list[Batch]:
    """Batches of prompts in the order of `moments` (prompt id -> ISO time of its last ranking), oldest first.

    All batches are equally large, give or take one: at most MOST_BATCHES, each of FEWEST_PROMPTS prompts at least where
    there are so many. Prompts without a moment are left out.
    """
    if consensus.workings is None or consensus.ranks is None:
        return []
    table, ranks = people_only(consensus.workings.table), consensus.ranks
    dated = sorted((moments[name], p) for p, name in enumerate(table.prompt_ids) if name in moments)
    if not dated:
        return []
    starts = table.starts
    count = int(np.clip(len(dated) // FEWEST_PROMPTS, 1, MOST_BATCHES))
    batches = []
    for part in np.array_split(np.arange(len(dated)), count):
        prompts = np.array([dated[i][1] for i in part])
        sizes = starts[prompts + 1] - starts[prompts]
        rows = np.concatenate([np.arange(int(starts[p]), int(starts[p + 1])) for p in prompts])
        firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        votes = votes_of(table.ranks[rows], firsts)
        counts = agreement.value_counts(table.ranks[rows], firsts)
        alpha, interval = agreement.krippendorff_alpha(counts, table.ranks.shape[1], seed)
        order = np.sign(ranks[:, votes.second] - ranks[:, votes.first])[table.prompt[rows]]
        both = (votes.vote != 0) & (order != 0)
        batches.append(
            Batch(
                dated[part[0]][0],
                dated[part[-1]][0],
                len(part),
                len(rows),
                alpha,
                interval[0] if interval else None,
                interval[1] if interval else None,
                float((votes.vote == order)[both].mean()) if both.any() else None,
            )
        )
    return batches
