"""Labelers who are copies of another: exactly the same answers to exactly the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from alignment.feedback.consensus_records import LabelerReliability
from alignment.records import Ranking

FEWEST_ANSWERS = 5  # with fewer, two people may well give the same answers by themselves


def split_copies(rankings: Sequence[Ranking]) -> tuple[list[Ranking], dict[str, str]]:
    """The rankings without those of copies, and copy -> original, the first of them by name."""
    answers: dict[str, list[tuple]] = defaultdict(list)
    for ranking in rankings:
        answers[ranking.labeler_id].append(
            (ranking.prompt_id, tuple(sorted(ranking.ranks.items())))
        )
    originals: dict[tuple, str] = {}
    copies = {}
    for labeler_id in sorted(answers):
        given = answers[labeler_id]
        if len(given) < FEWEST_ANSWERS:
            continue
        original = originals.setdefault(tuple(sorted(given)), labeler_id)
        if original != labeler_id:
            copies[labeler_id] = original
    return [ranking for ranking in rankings if ranking.labeler_id not in copies], copies


def copied_row(original: LabelerReliability, copy: str) -> LabelerReliability:
    """The row of a copy: the original's figures, flagged."""
    evidence = f"Gave exactly the same answers as {original.labeler_id} in all {original.count} rankings; counted once."
    return replace(original, labeler_id=copy, flagged=True, evidence=evidence)
