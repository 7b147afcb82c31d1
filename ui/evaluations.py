"""What the Review page shows of evaluations: the table of all of them, texts side by side, and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import gradio as gr

from alignment.evaluation.compare import PromptRow
from alignment.evaluation.evaluation import COMPARISON_FILE, Evaluation, read_evaluation
from alignment.evaluation.material import Material
from alignment.evaluation.report import CSV_FILE, HTML_FILE, MARKDOWN_FILE, marked
from alignment.evaluation.report_table import shown
from alignment.evaluation.reward_evidence import EVIDENCE_FILE
from alignment.feedback import run_queue, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from ui.shell import fragment
from ui.times import ago

DOWNLOADS = {
    "HTML": HTML_FILE,
    "Markdown": MARKDOWN_FILE,
    "CSV": CSV_FILE,
    "JSON": COMPARISON_FILE,
    "Reward model": EVIDENCE_FILE,
    "Model card": "model_card.md",
}
PAGE_SIZE = 20
CHANGES = {"All": "", "Got worse": "worse", "Got better": "better", "Unchanged": "same"}
EVERY_CATEGORY = "Every category"


def finished(store: Store) -> list[Run]:
    """The finished evaluations that are not deleted, newest first."""
    return run_queue.finished(store, "evaluate")


def finished_run(store: Store, run_id: str | None) -> Run:
    """The finished evaluation of that id; an error for the caller where there is none."""
    found = next((run for run in finished(store) if run.run_id == run_id), None)
    if found is None:
        raise gr.Error("Only a finished evaluation can be reviewed.", print_exception=False)
    return found


@lru_cache(maxsize=4)
def _read(folder: Path, _changed: int) -> tuple[Evaluation, Material]:
    return read_evaluation(folder)


def evaluation_in(folder: Path) -> tuple[Evaluation, Material]:
    """The evaluation of a run's folder, kept in memory until its file changes."""
    path = folder / COMPARISON_FILE
    return _read(folder, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _rows(folder: Path, changed: int, model: str | None, scorer: str | None) -> list[PromptRow]:
    found, material = _read(folder, changed)
    return found.comparison(material, model, scorer).worst_first()


def rows_in(folder: Path, model: str | None, scorer: str | None) -> list[PromptRow]:
    """All prompts of an evaluation, the worst regressions first."""
    changed = (folder / COMPARISON_FILE).stat().st_mtime_ns
    return _rows(folder, changed, model, scorer)


def chosen_rows(
    rows: Sequence[PromptRow], category: str, change: str, search: str
) -> list[PromptRow]:
    """The rows of a category and a direction whose prompt or texts hold `search`, in the given order."""
    wanted = search.strip().casefold()
    return [
        row
        for row in rows
        if (category in ("", EVERY_CATEGORY) or (row.category or "other") == category)
        and change in ("", row.direction)
        and (not wanted or wanted in _everything(row))
    ]


def _everything(row: PromptRow) -> str:
    return "\n".join([row.prompt, *(c.text for c in (*row.before, *row.after))]).casefold()


def texts(
    folder: Path,
    model: str | None,
    scorer: str | None,
    category: str,
    change: str,
    search: str,
    page: int,
) -> tuple[str, int]:
    """One page of prompts with their texts side by side, and the number of pages."""
    found, _ = evaluation_in(folder)
    rows = chosen_rows(rows_in(folder, model, scorer), category, change, search)
    pages = max(1, -(-len(rows) // PAGE_SIZE))
    page = min(max(page, 1), pages)
    html = fragment(
        "texts.html",
        rows=rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
        count=len(rows),
        before=found.reference,
        after=model or found.candidate,
        scorer=found.card(scorer).name,
        threshold=found.settings.threshold,
        shown=shown,
        marked=marked,
    )
    return html, pages


def categories_in(folder: Path) -> list[str]:
    """The categories of an evaluation's prompts, in order of first mention."""
    _, material = evaluation_in(folder)
    names = dict.fromkeys(prompt.category or "other" for prompt in material.prompts)
    return [EVERY_CATEGORY, *names] if len(names) > 1 else [EVERY_CATEGORY]


def runs_table(there: Sequence[Run], chosen: Run | None, store: Store) -> str:
    """All evaluations in one table, newest first."""
    rows = []
    for run in there:
        metrics = run.metrics
        given = runs.reviews(store, run.run_id)
        rows.append(
            {
                "run": run,
                "started": ago(run.started),
                "models": models_of(run),
                "metrics": metrics,
                "people": given[-1].verdict if given else "",
            }
        )
    run_id = chosen.run_id if chosen else None
    return fragment("evaluations.html", rows=rows, chosen=run_id, shown=shown)


def models_of(run: Run) -> str:
    """What was compared, in a few words."""
    models = run.inputs.get("models")
    if isinstance(models, dict) and models:
        names = list(models)
        return f"{names[0]} → {names[-1]}" + (f" ({len(names)} models)" if len(names) > 2 else "")
    after = str(run.inputs.get("policy") or run.inputs.get("after") or "")
    return Path(after).name if after else "–"


def downloads(folder: Path, run: Run) -> list[tuple[str, str]]:
    """Name and address of each file of the run that can be downloaded."""
    return [
        (label, f"/reports/{run.run_id}/{name}")
        for label, name in DOWNLOADS.items()
        if (folder / name).is_file()
    ]
