"""Labelling across the floors: what the project's runs say about labelers and about which task comes next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.config import LabellingConfig
from alignment.errors import ConcordError
from alignment.feedback import assignment, runs
from alignment.feedback.quality import LabelerQuality, labeler_quality
from alignment.feedback.runs import Run
from alignment.feedback.store import Store, Task
from alignment.feedback.toxicity_scores import keep_toxicity_scores
from alignment.files import read_jsonl
from alignment.records import Completion

# Strategy -> the stage whose latest run tells the priorities, its file, and the key of the figure.
_SOURCES = {
    "disputed": ("consensus", "prompts.jsonl", "disagreement_share"),
    "uncertain": ("reward", "uncertainty.jsonl", "sd"),
}


def _latest(store: Store, stage: str, name: str) -> tuple[Run, Path] | None:
    """The newest finished run of a stage that wrote the file, and the file."""
    for run in runs.runs(store, stage):
        if run.status == "finished" and run.folder and (Path(run.folder) / name).is_file():
            return run, Path(run.folder) / name
    return None


def quality(store: Store, rules: LabellingConfig) -> list[LabelerQuality]:
    """The quality of every labeler, beside the latest consensus where there is one."""
    found = _latest(store, "consensus", "prompts.jsonl")
    ranks = None
    if found is not None:
        ranks = {str(row["prompt_id"]): row["ranks"] for row in read_jsonl(found[1], dict)}
    return labeler_quality(store, rules, ranks)


def refresh_priorities(store: Store, rules: LabellingConfig) -> str | None:
    """Take the priorities of tasks from the latest run that tells them, where the strategy needs any.

    Returns what the strategy goes by, or why it goes by nothing; None for `fewest`. Nothing is written where the
    priorities are those of that run already.
    """
    if rules.strategy not in _SOURCES:
        return None
    stage, name, key = _SOURCES[rules.strategy]
    found = _latest(store, stage, name)
    if found is None:
        return (
            f"No finished {stage} run has written {name}: until one has, the strategy {rules.strategy!r} gives the "
            "tasks with the fewest rankings first."
        )
    run, path = found
    source = f"{rules.strategy} by {run.run_id}"
    if assignment.priorities_source(store) != source:
        try:
            rows: list[dict[str, Any]] = read_jsonl(path, dict)
            values = {str(row["prompt_id"]): float(row[key]) for row in rows}
        except (ConcordError, KeyError, TypeError, ValueError) as error:
            return (
                f"{path} cannot be used ({error}); the tasks with the fewest rankings come first."
            )
        assignment.set_priorities(store, values, source)
    return source


def begin_round(
    store: Store,
    completions: Sequence[Completion],
    overlap: int,
    run_id: str | None = None,
    *,
    close_open_tasks: bool = False,
) -> list[Task]:
    """Append completions as new tasks, scored for the board; returns the tasks.

    `close_open_tasks`: what is still open of the earlier tasks of the same prompts is closed. Their rankings stay.
    """
    from alignment.evaluation.toxicity import OFFLINE_SCORER, load_scorer

    tasks = store.add_tasks(completions, overlap, run_id=run_id)
    if close_open_tasks:
        prompt_ids = [task.prompt_id for task in tasks]
        assignment.close_tasks(store, prompt_ids, except_tasks=[task.task_id for task in tasks])
    scores = load_scorer(OFFLINE_SCORER)([completion.text for completion in completions])
    by_id = {c.completion_id: float(s) for c, s in zip(completions, scores, strict=True)}
    keep_toxicity_scores(store, by_id, OFFLINE_SCORER)
    return tasks
