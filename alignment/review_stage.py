"""What reviewers add to an evaluation: blind rounds, and verdicts that become part of the run."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

from alignment.errors import InputError
from alignment.evaluation.evaluation import COMPARISON_FILE, read_evaluation
from alignment.evaluation.report import write_reports
from alignment.evaluation_stage import background_of
from alignment.feedback import blind, runs
from alignment.feedback.blind import Pair, Round
from alignment.feedback.runs import Review
from alignment.feedback.store import Store
from alignment.files import write_json

REVIEWS_FILE, PEOPLE_FILE = "reviews.json", "people.json"
ROUND_PAIRS = 40


def add_review(store: Store, folder: Path, review: Review) -> Review:
    """Store a verdict tied to the figures in `folder`, and write it into the run: `reviews.json` and the reports.

    Raises `InputError` on an unknown verdict or where the folder holds no evaluation; `StoreError` on an unknown run.
    """
    comparison = folder / COMPARISON_FILE
    if not comparison.is_file():
        raise InputError(f"{review.run_id} has no {COMPARISON_FILE} in its folder to judge.")
    signed = replace(review, figures=hashlib.sha256(comparison.read_bytes()).hexdigest())
    runs.add_review(store, signed)
    refresh(store, folder, review.run_id)
    return signed


def open_round(
    store: Store, folder: Path, run_id: str, opened_by: str, count: int = ROUND_PAIRS
) -> Round:
    """Open a blind round over at most `count` prompts of an evaluation, drawn at random, one pair of texts each.

    Each further round of a run draws anew. Prompts to which both models say the same are left out. Raises `InputError`
    where nothing is left.
    """
    found, material = read_evaluation(folder)
    comparison = found.comparison(material)
    drawn = random.Random(f"{run_id}/{len(blind.rounds(store, run_id))}")
    pairs = []
    for row in comparison.prompts:
        at = drawn.randrange(min(len(row.before), len(row.after)))
        before, after = row.before[at].text, row.after[at].text
        if before.strip() != after.strip():
            pairs.append(Pair(row.prompt_id, row.prompt, before, after))
    drawn.shuffle(pairs)
    names = comparison.before.name, comparison.after.name
    return blind.open_round(store, run_id, *names, pairs[:count], opened_by)


def refresh(store: Store, folder: Path, run_id: str) -> None:
    """Write what people said into the run's folder and into its reports. The figures stay as they are."""
    write_json(folder / REVIEWS_FILE, [r.to_json() for r in runs.reviews(store, run_id)])
    write_json(folder / PEOPLE_FILE, blind.results(store, run_id))
    try:
        found, material = read_evaluation(folder)
    except InputError:
        return  # made by an earlier version: the verdict is kept, the report stays as it is
    story = background_of(store, Path(found.models[-1].source), run_id, folder)
    write_reports(folder, found, material, story)
