"""What the labelers did, in the form in which the reward model's trust figures want it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

from alignment.errors import InputError
from alignment.feedback.consensus import fit_consensus
from alignment.records import LabelerEvidence, LabelerVote, Ranking

Order = dict[tuple[str, str, str], bool]  # (prompt, one, other) -> one is better


def labeler_evidence(
    rankings: Sequence[Ranking],
    labelers: Sequence[Mapping[str, Any]],
    prompt_ids: Collection[str],
    method: Literal["auto", "factor", "majority", "borda", "dawid-skene"] = "auto",
) -> LabelerEvidence:
    """Every vote of `rankings` on two completions of a prompt in `prompt_ids`, and where completions were shown.

    `labelers`: rows of the consensus' labelers.json; a labeler who is not among them counts as not trusted. Ties are
    no votes. Positions are the means over all rankings of the completion, of whatever prompt. Each trusted labeler's
    votes are held against the consensus of the others, fitted anew by `method`.
    """
    about = {row["labeler_id"]: row for row in labelers}
    chosen: dict[str, list[Ranking]] = defaultdict(list)
    shown: dict[str, list[int]] = defaultdict(list)
    for ranking in rankings:
        for completion_id, place in (ranking.positions or {}).items():
            shown[completion_id].append(place)
        if ranking.prompt_id in prompt_ids:
            chosen[ranking.labeler_id].append(ranking)
    votes: list[LabelerVote] = []
    for labeler_id, own in chosen.items():
        row = about.get(labeler_id, {"kind": "unknown", "flagged": True})
        trusted = not row["flagged"]
        others = _order_without(labeler_id, rankings, prompt_ids, method) if trusted else {}
        votes += [
            LabelerVote(
                labeler_id,
                row["kind"],
                trusted,
                ranking.prompt_id,
                better,
                worse,
                others.get((ranking.prompt_id, better, worse)),
            )
            for ranking in own
            for better, worse in _ordered(ranking)
        ]
    return LabelerEvidence(votes, {name: sum(p) / len(p) for name, p in shown.items()})


def _ordered(ranking: Ranking) -> list[tuple[str, str]]:
    """(better, worse) of each pair that the ranking orders."""
    ranks = ranking.ranks
    return [
        (one, other) if ranks[one] < ranks[other] else (other, one)
        for one, other in combinations(ranks, 2)
        if ranks[one] != ranks[other]
    ]


def _order_without(
    labeler_id: str,
    rankings: Sequence[Ranking],
    prompt_ids: Collection[str],
    method: Literal["auto", "factor", "majority", "borda", "dawid-skene"],
) -> Order:
    """The consensus order of the pairs of `prompt_ids` when one labeler is left out; empty where there is none."""
    others = [ranking for ranking in rankings if ranking.labeler_id != labeler_id]
    completions: dict[str, dict[str, None]] = defaultdict(dict)
    for ranking in others:
        completions[ranking.prompt_id] |= dict.fromkeys(ranking.ranks)
    try:
        fitted = fit_consensus(
            others, {name: list(ids) for name, ids in completions.items()}, method=method
        )
    except InputError:  # too few rankings are left for any consensus
        return {}
    order: Order = {}
    for pair in fitted.pairs:
        if pair.prompt_id in prompt_ids and pair.confidence > 0.5:
            order[pair.prompt_id, pair.preferred_id, pair.other_id] = True
            order[pair.prompt_id, pair.other_id, pair.preferred_id] = False
    return order
