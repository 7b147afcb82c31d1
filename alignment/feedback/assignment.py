"""Which labeler ranks which task: leases, and the submission that ends them.

A lease is one labeler's place in a task. It is taken and turned into a ranking in single write transactions, so
that a task never gets more rankings than its overlap and one labeler never ranks it twice.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from dataclasses import dataclass

from alignment.errors import InputError, StoreError
from alignment.feedback.store import Store, Task, ranking_row
from alignment.records import Ranking

LEASE_SECONDS = 30 * 60


@dataclass(frozen=True, slots=True)
class Lease:
    """A task shown to a labeler. `order`: completion ids in the order shown; `token` makes submitting idempotent."""

    task: Task
    labeler_id: str
    token: str
    order: tuple[str, ...]


def next_lease(
    store: Store, labeler_id: str, *, lease_seconds: float = LEASE_SECONDS
) -> Lease | None:
    """The labeler's open lease, or a fresh one on the task with the fewest rankings; None when nothing is left.

    An open lease is given again with the same order and token, so that a reload or a second tab shows the same
    board. Expired leases of others free their place.
    """
    moment = time.time()
    with store.writing() as db:
        for row in db.query(
            "SELECT * FROM leases WHERE labeler_id = ? ORDER BY shown LIMIT 1", [labeler_id]
        ):
            if _place_left(store, row["task_id"], labeler_id, moment):
                db.execute(
                    "UPDATE leases SET expires = ? WHERE task_id = ? AND labeler_id = ?",
                    [moment + lease_seconds, row["task_id"], labeler_id],
                )
                return _lease(
                    store.task(row["task_id"]),
                    labeler_id,
                    row["token"],
                    json.loads(row["positions"]),
                )
            db.execute(
                "DELETE FROM leases WHERE task_id = ? AND labeler_id = ?",
                [row["task_id"], labeler_id],
            )
        candidate = db.execute(_NEXT_TASK, {"labeler": labeler_id, "moment": moment}).fetchone()
        if candidate is None:
            return None
        task = store.task(candidate[0])
        token = secrets.token_urlsafe(16)
        positions = shown_positions(task, labeler_id)
        db.table("leases").insert(
            {
                "task_id": task.task_id,
                "labeler_id": labeler_id,
                "token": token,
                "positions": json.dumps(positions),
                "shown": moment,
                "expires": moment + lease_seconds,
            }
        )
        return _lease(task, labeler_id, token, positions)


# Only people's rankings and leases take a place: a simulation never uses up a person's turn.
_TAKEN = (
    "(SELECT count(*) FROM standing_rankings r WHERE r.task_id = t.task_id AND r.simulated = 0) "
    "+ (SELECT count(*) FROM leases l WHERE l.task_id = t.task_id AND l.expires > :moment "
    "AND l.labeler_id != :labeler)"
)
_NEXT_TASK = (
    f"SELECT t.task_id, {_TAKEN} AS taken FROM tasks t WHERE taken < t.overlap AND NOT EXISTS "
    "(SELECT 1 FROM rankings r WHERE r.task_id = t.task_id AND r.labeler_id = :labeler) "
    "ORDER BY taken, t.rowid DESC LIMIT 1"
)


def _place_left(store: Store, task_id: str, labeler_id: str, moment: float) -> bool:
    row = store.db.execute(
        f"SELECT {_TAKEN} < t.overlap FROM tasks t WHERE t.task_id = :task",
        {"labeler": labeler_id, "moment": moment, "task": task_id},
    ).fetchone()
    return bool(row[0])


def shown_positions(task: Task, labeler_id: str) -> dict[str, int]:
    """Completion id -> place: a shuffle fixed by task, turned on by one place for each labeler (counterbalance)."""
    order = list(task.completion_ids)
    random.Random(task.task_id).shuffle(order)
    turn = random.Random(f"{task.task_id}/{labeler_id}").randrange(len(order))
    return {completion_id: (place + turn) % len(order) for place, completion_id in enumerate(order)}


def _lease(task: Task, labeler_id: str, token: str, positions: dict[str, int]) -> Lease:
    return Lease(task, labeler_id, token, tuple(sorted(positions, key=positions.__getitem__)))


def submit(store: Store, labeler_id: str, token: str, ranks: dict[str, int]) -> Ranking:
    """Turn the lease of `token` into a ranking; a repeated submit of the same token returns the stored ranking.

    Raises `InputError` where the ranking does not rank exactly the task's completions, `StoreError` where the
    lease is not this labeler's, or its place has gone to somebody else after it expired.
    """
    moment = time.time()
    with store.writing() as db:
        stored = db.execute(
            "SELECT ranking_id, labeler_id FROM rankings WHERE token = ?", [token]
        ).fetchone()
        if stored is not None:
            return _stored(store, stored, labeler_id, ranks)
        lease = next(iter(db.query("SELECT * FROM leases WHERE token = ?", [token])), None)
        if lease is None or lease["labeler_id"] != labeler_id:
            raise StoreError(
                "This task is no longer open for you. Load the next one; nothing was stored."
            )
        task = store.task(lease["task_id"])
        if set(ranks) != set(task.completion_ids):
            raise InputError("The ranking must place every completion of the task, and no other.")
        if lease["expires"] <= moment and not _place_left(store, task.task_id, labeler_id, moment):
            db.execute("DELETE FROM leases WHERE token = ?", [token])
            raise StoreError(
                "Your turn at this task had run out and others have completed it. Load the next one."
            )
        ranking = Ranking(
            task.prompt_id,
            labeler_id,
            ranks,
            json.loads(lease["positions"]),
            round(moment - lease["shown"], 3),
        )
        store.check_ranking(ranking)
        db.table("rankings").insert(ranking_row(ranking, task_id=task.task_id, token=token))
        db.execute("DELETE FROM leases WHERE token = ?", [token])
        return ranking


def _stored(
    store: Store, stored: tuple[int, str], labeler_id: str, ranks: dict[str, int]
) -> Ranking:
    ranking = next(r for i, r in store.rankings_by_id([stored[0]]) if i == stored[0])
    if stored[1] != labeler_id or ranking.ranks != ranks:
        raise StoreError(
            "This task was already answered, in another tab perhaps. The stored answer stands."
        )
    return ranking


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a labeler is: rankings submitted, and tasks still open to them."""

    done: int
    left: int


def progress(store: Store, labeler_id: str) -> Progress:
    """Counts for one labeler."""
    done = store.rows(
        "SELECT count(*) AS n FROM standing_rankings WHERE labeler_id = ?", [labeler_id]
    )[0]["n"]
    open_tasks = _NEXT_TASK.replace("ORDER BY taken, t.rowid DESC LIMIT 1", "")
    with store.reading() as db:
        left = db.execute(
            f"SELECT count(*) FROM ({open_tasks})", {"labeler": labeler_id, "moment": time.time()}
        ).fetchone()[0]
    return Progress(done, left)
