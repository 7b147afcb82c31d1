"""The workspace's database: the one place that knows SQL.

SQLite through sqlite-utils, in WAL mode. Each public method that writes is one `BEGIN IMMEDIATE` transaction, so
that several processes (the served UI, training runs, the command line) write in turn and never half.

What is committed survives the death of the process whatever happens. A durable transaction (the default) also survives
the loss of power: its commit waits for the disk. Leases and drafts do not wait; a power cut may take the last of them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from alignment.errors import StoreError
from alignment.feedback.migrations import MIGRATIONS, migrate, schema_version
from alignment.records import Completion, Prompt, Ranking, check_positions, check_ranks, short_id

BUSY_TIMEOUT_SECONDS = 30


def now() -> str:
    """The present moment as an ISO 8601 string in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Task:
    """The completions of one prompt, to be ranked by `overlap` labelers."""

    task_id: str
    prompt_id: str
    completion_ids: tuple[str, ...]
    overlap: int


class Store:
    """One SQLite file. Safe to share between the threads of a process; every process opens its own."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.exists():
            raise StoreError(f"{self.path} does not exist. Run `concord init` to make a workspace.")
        self._lock = threading.RLock()
        self._writer: int | None = None  # the thread inside a write transaction
        self._durable = True
        self._local = threading.local()
        self._readers: weakref.WeakSet[Database] = weakref.WeakSet()
        try:
            self.db = self._connect()
            self.db.enable_wal()
            self.db.execute("PRAGMA foreign_keys = ON")
            self.db.execute("PRAGMA synchronous = FULL")
            if schema_version(self.db) != len(MIGRATIONS):
                with self.writing():
                    migrate(self.db)
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path} cannot be opened as a Concord store: {error}."
            ) from error

    def _connect(self) -> Database:
        return Database(
            sqlite3.connect(
                self.path,
                timeout=BUSY_TIMEOUT_SECONDS,
                check_same_thread=False,
                isolation_level=None,
            )
        )

    def close(self) -> None:
        with self._lock:
            for reader in list(self._readers):
                reader.close()
            self._local = threading.local()
            self.db.close()

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Database]:
        """One write transaction: takes the write lock at once, commits whole or not at all.

        `durable`: the commit waits for the disk, so that not even a power cut undoes it.
        """
        with self._lock:
            try:
                if durable != self._durable:
                    self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._durable = durable
                self.db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise _explained(self.path, error) from error
            self._writer = threading.get_ident()
            try:
                yield self.db
                self.db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self.db.rollback()
                raise _explained(self.path, error) from error
            except BaseException:
                self.db.rollback()
                raise
            finally:
                self._writer = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Database]:
        """The database, for reading: inside a write transaction its own connection, elsewhere one of this thread's.

        In WAL mode readers wait for no writer.
        """
        if self._writer == threading.get_ident():
            yield self.db
            return
        reader = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
            weakref.finalize(reader, reader.conn.close)  # with its thread
            with self._lock:
                self._readers.add(reader)
        yield reader

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query. For this floor only: callers above use the named methods."""
        with self.reading() as db:
            return list(db.query(sql, list(params)))

    # Prompts and completions

    def add_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Append prompts; the same id with the same text is left alone. Returns how many were new.

        Raises `StoreError` where an id is taken by another prompt.
        """
        added = 0
        with self.writing() as db:
            for prompt in prompts:
                text = json.dumps(prompt.prompt, ensure_ascii=False)
                known = list(
                    db.query("SELECT prompt FROM prompts WHERE prompt_id = ?", [prompt.prompt_id])
                )
                if known and known[0]["prompt"] != text:
                    raise StoreError(
                        f"The prompt id {prompt.prompt_id!r} already stands for another prompt. Prompts are "
                        "append-only: give the changed prompt an id of its own."
                    )
                if not known:
                    row = {"prompt_id": prompt.prompt_id, "prompt": text, "split": prompt.split}
                    db.table("prompts").insert({**row, "created": now()})
                    added += 1
        return added

    def prompts(self, split: str = "all") -> list[Prompt]:
        """All prompts, or those of one split, in the order in which they were added."""
        where = "" if split == "all" else "WHERE split = ?"
        rows = self.rows(
            f"SELECT * FROM prompts {where} ORDER BY rowid", [] if split == "all" else [split]
        )
        return [Prompt(r["prompt_id"], json.loads(r["prompt"]), r["split"]) for r in rows]

    def add_tasks(
        self, completions: Sequence[Completion], overlap: int, *, run_id: str | None = None
    ) -> list[Task]:
        """Append completions and one task for each prompt's group of them, to be ranked by `overlap` labelers."""
        groups: dict[str, list[Completion]] = {}
        for completion in completions:
            groups.setdefault(completion.prompt_id, []).append(completion)
        tasks = []
        with self.writing() as db:
            for prompt_id, group in groups.items():
                for completion in group:
                    row = completion.to_json()
                    row["finished"] = int(completion.finished)
                    row["created"] = now()
                    row["run_id"] = run_id
                    db.table("completions").insert(row)
                ids = tuple(c.completion_id for c in group)
                task = Task(short_id("task", prompt_id, ids), prompt_id, ids, overlap)
                tasks.append(task)
                db.table("tasks").insert(
                    {
                        "task_id": task.task_id,
                        "prompt_id": prompt_id,
                        "completion_ids": json.dumps(ids),
                        "overlap": overlap,
                        "run_id": run_id,
                        "created": now(),
                    }
                )
        return tasks

    def tasks(self) -> list[Task]:
        """All tasks, oldest first."""
        return [task_of(row) for row in self.rows("SELECT * FROM tasks ORDER BY rowid")]

    def task(self, task_id: str) -> Task:
        """One task; `StoreError` where there is none of that id."""
        rows = self.rows("SELECT * FROM tasks WHERE task_id = ?", [task_id])
        if not rows:
            raise StoreError(f"There is no task {task_id!r}.")
        return task_of(rows[0])

    def prompt(self, prompt_id: str) -> Prompt:
        """One prompt; `StoreError` where there is none of that id."""
        rows = self.rows("SELECT * FROM prompts WHERE prompt_id = ?", [prompt_id])
        if not rows:
            raise StoreError(f"There is no prompt {prompt_id!r}.")
        return Prompt(rows[0]["prompt_id"], json.loads(rows[0]["prompt"]), rows[0]["split"])

    def completions(self, completion_ids: Iterable[str] | None = None) -> dict[str, Completion]:
        """Completions by id: those named, or all."""
        if completion_ids is None:
            rows = self.rows("SELECT * FROM completions ORDER BY rowid")
        else:
            wanted = json.dumps(list(completion_ids))
            rows = self.rows(
                "SELECT * FROM completions WHERE completion_id IN (SELECT value FROM json_each(?))",
                [wanted],
            )
        return {
            r["completion_id"]: Completion(
                r["completion_id"],
                r["prompt_id"],
                r["text"],
                bool(r["finished"]),
                r["tokens"],
                r["run_id"],
            )
            for r in rows
        }

    # Rankings

    def add_rankings(self, rankings: Iterable[Ranking], tasks: dict[str, str] | None = None) -> int:
        """Append rankings made elsewhere (imported or simulated); returns how many.

        `tasks` gives the task of each prompt id where there is one. Raises `StoreError` on an unknown prompt,
        labeler or completion, naming it; then nothing is added.
        """
        added = 0
        with self.writing() as db:
            for ranking in rankings:
                self.check_ranking(ranking)
                db.table("rankings").insert(
                    ranking_row(ranking, task_id=(tasks or {}).get(ranking.prompt_id))
                )
                added += 1
        return added

    def check_ranking(self, ranking: Ranking) -> None:
        """Raise `StoreError` unless the ranking's labeler, prompt and completions are in the store."""
        check_ranks(ranking.ranks)
        if ranking.positions is not None:
            check_positions(ranking.positions, ranking.ranks)
        known = self.db.execute(
            "SELECT simulated FROM labelers WHERE labeler_id = ?", [ranking.labeler_id]
        )
        labeler = known.fetchone()
        if labeler is None:
            raise StoreError(
                f"The labeler {ranking.labeler_id!r} is not in this workspace. Add them with `concord labelers add`."
            )
        if bool(labeler[0]) != ranking.simulated:
            raise StoreError(
                f"The labeler {ranking.labeler_id!r} and the ranking disagree on whether it is simulated: "
                "rankings of people and of simulations are kept apart."
            )
        ids = {
            row["completion_id"]
            for row in self.db.query(
                "SELECT completion_id FROM completions WHERE prompt_id = ?", [ranking.prompt_id]
            )
        }
        for completion_id in ranking.ranks:
            if completion_id not in ids:
                raise StoreError(
                    f"The ranking by {ranking.labeler_id!r} names the completion {completion_id!r}, which is not one "
                    f"of prompt {ranking.prompt_id!r}. Import the completions first, or correct the ranking."
                )

    def rankings(self, kind: str = "all") -> list[Ranking]:
        """The standing rankings that count, of `people`, `simulated` labelers, or `all`.

        Left out: superseded ones, repeats (a labeler has one vote on a task), and those of excluded labelers. Answers
        to gold tasks count: they are evidence about their labelers.
        """
        where = {"all": "", "people": "WHERE simulated = 0", "simulated": "WHERE simulated = 1"}[
            kind
        ]
        rows = self.rows(f"SELECT * FROM counted_rankings {where} ORDER BY ranking_id")
        return [_ranking(row) for row in rows]

    def rankings_by_id(self, ranking_ids: Sequence[int]) -> list[tuple[int, Ranking]]:
        """The rankings of those row ids, standing or superseded."""
        wanted = json.dumps(list(ranking_ids))
        rows = self.rows(
            "SELECT * FROM rankings WHERE ranking_id IN (SELECT value FROM json_each(?))", [wanted]
        )
        return [(row["ranking_id"], _ranking(row)) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many prompts, completions, tasks, labelers and standing rankings there are."""
        tables = ("prompts", "completions", "tasks", "labelers", "standing_rankings", "runs")
        row = self.rows(
            "SELECT " + ", ".join(f"(SELECT count(*) FROM {t}) AS {t}" for t in tables)
        )[0]
        row["rankings"] = row.pop("standing_rankings")
        return row


def ranking_row(ranking: Ranking, *, task_id: str | None, **more: Any) -> dict[str, Any]:
    """A ranking as a row of its table; `more` are further columns (token, supersedes)."""
    return {
        "task_id": task_id,
        "prompt_id": ranking.prompt_id,
        "labeler_id": ranking.labeler_id,
        "ranks": json.dumps(ranking.ranks),
        "positions": None if ranking.positions is None else json.dumps(ranking.positions),
        "seconds": ranking.seconds,
        "simulated": int(ranking.simulated),
        "none_acceptable": int(ranking.none_acceptable),
        "created": now(),
        **more,
    }


def _ranking(row: dict[str, Any]) -> Ranking:
    positions = None if row["positions"] is None else json.loads(row["positions"])
    return Ranking(
        row["prompt_id"],
        row["labeler_id"],
        json.loads(row["ranks"]),
        positions,
        row["seconds"],
        bool(row["simulated"]),
        bool(row["none_acceptable"]),
    )


def task_of(row: dict[str, Any]) -> Task:
    """A row of the tasks."""
    return Task(
        row["task_id"], row["prompt_id"], tuple(json.loads(row["completion_ids"])), row["overlap"]
    )


def _explained(path: Path, error: sqlite3.OperationalError) -> Exception:
    """A full disk or a held lock, said so; any other error as it is."""
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return StoreError(
            f"No space left for {path} ({text}). Nothing was half-written; free some space and try again."
        )
    if "locked" in text:
        return StoreError(
            f"{path} has been held by another process for {BUSY_TIMEOUT_SECONDS} s. Try again; nothing was written."
        )
    if "readonly" in text:
        return StoreError(
            f"{path} cannot be written ({text}). Check the permissions of the workspace."
        )
    return error
