"""Runs (executions of a stage) and the reviews that people write about them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment.errors import InputError, StoreError
from alignment.feedback.store import Store, now

VERDICTS = ("accept", "reject", "needs work")
STATUSES = ("queued", "starting", "running", "finished", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a stage: what it was asked, what it read, what came out, where its files lie."""

    run_id: str
    stage: str
    config: dict[str, Any]
    status: str = "running"
    inputs: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
    message: str | None = None
    started: str = field(default_factory=now)
    ended: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_JSON_COLUMNS = ("config", "inputs", "metrics", "versions")


def save_run(store: Store, run: Run) -> None:
    """Insert the run, or replace what was known of it."""
    with store.writing() as db:
        db.table("runs").upsert(run_row(run), pk="run_id")


def keep_metrics(store: Store, run_id: str, metrics: dict[str, Any]) -> None:
    """Put the figures of a run under way on record; its status stays what it is."""
    with store.writing() as db:
        db.table("runs").update(run_id, {"metrics": json.dumps(metrics, allow_nan=False)})


def run_row(run: Run) -> dict[str, Any]:
    """A run as a row of its table."""
    row = asdict(run)
    return row | {column: json.dumps(row[column], allow_nan=False) for column in _JSON_COLUMNS}


def runs(store: Store, stage: str | None = None) -> list[Run]:
    """All runs, newest first, or those of one stage."""
    where, params = ("WHERE stage = ?", [stage]) if stage else ("", [])
    return [
        _run(row) for row in store.rows(f"SELECT * FROM runs {where} ORDER BY rowid DESC", params)
    ]


def run(store: Store, run_id: str) -> Run:
    """One run; `StoreError` where there is none of that id."""
    rows = store.rows("SELECT * FROM runs WHERE run_id = ?", [run_id])
    if not rows:
        raise StoreError(
            f"There is no run {run_id!r}. `concord runs list` shows the runs there are."
        )
    return _run(rows[0])


def run_in(store: Store, stage: str, folder: Path) -> Run | None:
    """The run of that stage whose files lie in `folder`, or None."""
    there = folder.resolve()
    known = runs(store, stage)
    return next((one for one in known if one.folder and Path(one.folder).resolve() == there), None)


_NAMES_PATHS = {"runs": ("config", "inputs", "metrics"), "run_requests": ("config", "files")}


def relocate(store: Store, home: Path) -> bool:
    """Let the runs of a workspace that was moved or copied to `home` name their files there; whether any did not.

    Runs lie in the folder `runs` of a workspace under their own id. Whatever else is named below the old place, such as
    the reward model that a run has read, is named below the new one too. What lies outside stays as it is.
    """
    named = store.rows("SELECT run_id, folder FROM runs WHERE folder IS NOT NULL")
    folders = [(row["run_id"], Path(row["folder"])) for row in named]
    earlier = {
        folder.parents[1]
        for run_id, folder in folders
        if folder.parts[-2:] == ("runs", run_id) and folder.parents[1] != home
    }
    if not earlier:
        return False
    with store.writing() as db:
        for place in earlier:
            old, new = f"{place}/", f"{home}/"
            db.execute(
                "UPDATE runs SET folder = ? || substr(folder, ?) WHERE substr(folder, 1, ?) = ?",
                [new, len(old) + 1, len(old), old],
            )
            for table, columns in _NAMES_PATHS.items():
                for column in columns:  # JSON: a path is quoted, and its letters may be escaped
                    told = [json.dumps(old)[:-1], json.dumps(new)[:-1]]
                    db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", told)
    return True


def _run(row: dict[str, Any]) -> Run:
    for column in _JSON_COLUMNS:
        row[column] = json.loads(row[column]) if row[column] else {}
    return Run(**row)


@dataclass(frozen=True, slots=True)
class Review:
    """A reviewer's verdict on an evaluation run.

    `figures`: SHA-256 of the `comparison.json` that the reviewer had before them, so that the verdict stays tied to it.
    """

    run_id: str
    reviewer: str
    verdict: str
    comment: str
    created: str = field(default_factory=now)
    figures: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def add_review(store: Store, review: Review) -> None:
    """Append a review. Raises `InputError` on an unknown verdict, `StoreError` on an unknown run."""
    if review.verdict not in VERDICTS:
        raise InputError(
            f"The verdict {review.verdict!r} is not known; choose one of {', '.join(VERDICTS)}."
        )
    run(store, review.run_id)
    with store.writing() as db:
        db.table("reviews").insert(asdict(review))


def reviews(store: Store, run_id: str) -> list[Review]:
    """The reviews of a run, oldest first."""
    rows = store.rows("SELECT * FROM reviews WHERE run_id = ? ORDER BY review_id", [run_id])
    return [
        Review(r["run_id"], r["reviewer"], r["verdict"], r["comment"], r["created"], r["figures"])
        for r in rows
    ]
