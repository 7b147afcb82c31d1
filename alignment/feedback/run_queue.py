"""The queue of runs: what was asked for, which process works on it, and what people noted about it.

A run is `queued`, `starting` (claimed, its process not there yet), `running`, then `finished`, `stopped` (by hand; it
can be resumed) or `failed`. All transitions are single transactions, so that two who start runs at once get one each.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

from alignment.errors import InputError, StoreError, nearest
from alignment.feedback import runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store, now
from alignment.processes import ProcessId

STAGES = ("sample", "consensus", "reward", "ppo", "evaluate")
WAITING, ACTIVE, ENDED = ("queued",), ("starting", "running"), ("finished", "stopped", "failed")
PROMOTIONS = ("promote", "promote-best")  # of the run's last policy, or of its best
LONGEST_NOTE, LONGEST_TAG = 4000, 40
MARKS = ("note", "tag", "untag", *PROMOTIONS, "delete", "restore", "first")
CLAIM_SECONDS = 20  # a claimed run whose process is not there by then goes back into the queue


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked a run to do. `config`: the whole configuration; `files`: option name -> path or id.

    `after`: runs that must have finished first. `launch`: options of the launcher (`nproc`, `fsdp`).
    """

    run_id: str
    stage: str
    config: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    resume: bool = False
    created_by: str = ""
    created: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Mark:
    """A note, a tag, a promotion or a deletion: who said what about a run, and when."""

    run_id: str
    kind: str
    value: str
    by: str
    created: str = field(default_factory=now)


def enqueue(store: Store, run: Run, request: Request) -> None:
    """Append a run and its request to the end of the queue, together: asked for when they stand there, not before."""
    with store.writing() as db:
        db.table("runs").insert(runs.run_row(replace(run, status="queued")))
        db.table("run_requests").insert(_request_row(replace(request, created=now())))


def keep_request(store: Store, request: Request) -> None:
    """Remember the request of a run that started without the queue, so that it can be resumed and cloned."""
    with store.writing() as db:
        db.table("run_requests").upsert(_request_row(request), pk="run_id")


def request_of(store: Store, run_id: str) -> Request | None:
    """The request behind a run; None for runs from before requests were kept."""
    rows = store.rows("SELECT * FROM run_requests WHERE run_id = ?", [run_id])
    return _request(rows[0]) if rows else None


def requeue(store: Store, run_id: str, by: str) -> None:
    """Put a stopped or failed run back into the queue, to go on from its last checkpoint."""
    with store.writing() as db:
        status = _status(store, run_id)
        if status not in ("stopped", "failed"):
            raise StoreError(
                f"The run {run_id!r} is {status}; only a stopped or failed run can be resumed."
            )
        if not db.execute("SELECT 1 FROM run_requests WHERE run_id = ?", [run_id]).fetchone():
            raise StoreError(
                f"What the run {run_id!r} was asked to do is not on record, so it cannot be resumed."
            )
        db.execute(
            "UPDATE run_requests SET resume = 1, created = ?, created_by = ? WHERE run_id = ?",
            [now(), by, run_id],
        )
        _set(store, run_id, "queued", None)


# Those that were moved to the front since they were asked for come first, the last moved before the others.
_QUEUE = (
    "SELECT q.* FROM runs r JOIN run_requests q USING (run_id) WHERE r.status = 'queued' ORDER BY "
    "(SELECT max(mark_id) FROM run_marks m WHERE m.run_id = r.run_id AND m.kind = 'first' AND m.created >= q.created) "
    "DESC, q.created, q.rowid"
)


def queue(store: Store) -> list[Request]:
    """What waits, in the order in which it starts."""
    return [_request(row) for row in store.rows(_QUEUE)]


def move_to_front(store: Store, run_id: str, by: str) -> None:
    """Let a queued run start before the others, as soon as those it waits for have finished."""
    if run_id not in [request.run_id for request in queue(store)]:
        status = runs.run(store, run_id).status
        raise StoreError(
            f"The run {run_id!r} is {status}; only a queued run can be moved to the front."
        )
    add_mark(store, Mark(run_id, "first", "", by))


def claim_next(store: Store, most: int) -> str | None:
    """Claim the first queued run whose predecessors have finished, while fewer than `most` are active.

    Queued runs whose predecessor failed, was stopped or deleted are marked failed, with the reason.
    """
    with store.writing() as db:
        _release_lost_claims(store)
        active = db.execute(  # a run without a process takes up nothing
            "SELECT count(*) FROM runs JOIN run_processes USING (run_id) WHERE status IN ('starting', 'running')"
        ).fetchone()[0]
        for row in list(db.query(_QUEUE)):
            states = {name: _status(store, name) for name in json.loads(row["after"])}
            lost = [name for name, state in states.items() if state in ("failed", "stopped")]
            if lost:
                reason = f"It waited for {lost[0]}, which is {states[lost[0]]}."
                _set(store, row["run_id"], "failed", reason)
            elif active < most and all(state == "finished" for state in states.values()):
                db.execute(
                    "INSERT OR REPLACE INTO run_processes VALUES (?, NULL, ?)",
                    [row["run_id"], time.time()],
                )
                _set(store, row["run_id"], "starting", None)
                return row["run_id"]
    return None


def _release_lost_claims(store: Store) -> None:
    """Whoever claimed a run and died before starting it leaves it to others."""
    lost = store.db.execute(
        "SELECT r.run_id FROM runs r JOIN run_processes p USING (run_id) "
        "WHERE r.status = 'starting' AND p.pid IS NULL AND p.started < ?",
        [time.time() - CLAIM_SECONDS],
    ).fetchall()
    for (run_id,) in lost:
        _set(store, run_id, "queued", None)


def set_process(store: Store, run_id: str, process: ProcessId) -> None:
    """Record which process works on a run."""
    with store.writing() as db:
        db.execute(
            "INSERT OR REPLACE INTO run_processes VALUES (?, ?, ?)",
            [run_id, process.pid, process.started],
        )


def processes(store: Store) -> dict[str, ProcessId]:
    """Run id -> its process, of all active runs that have one."""
    rows = store.rows(
        "SELECT p.* FROM run_processes p JOIN runs r USING (run_id) "
        "WHERE r.status IN ('starting', 'running') AND p.pid IS NOT NULL"
    )
    return {row["run_id"]: ProcessId(row["pid"], row["started"]) for row in rows}


def end(store: Store, run_id: str, status: str, message: str | None) -> bool:
    """Mark an active or queued run as ended; False where it had ended by itself meanwhile."""
    with store.writing():
        if _status(store, run_id) in ENDED:
            return False
        _set(store, run_id, status, message, ended=now())
        return True


def _status(store: Store, run_id: str) -> str:
    row = store.db.execute("SELECT status FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None:
        raise StoreError(
            f"There is no run {run_id!r}. `concord runs list` shows the runs there are."
        )
    return row[0]


def _set(
    store: Store, run_id: str, status: str, message: str | None, ended: str | None = None
) -> None:
    store.db.execute(
        "UPDATE runs SET status = ?, message = ?, ended = ? WHERE run_id = ?",
        [status, message, ended, run_id],
    )


def add_mark(store: Store, mark: Mark) -> None:
    """Append a mark.

    Raises `InputError` on an unknown kind, an empty or too long text, or a tag to take off that is not there, and
    `StoreError` on an unknown run.
    """
    if mark.kind not in MARKS:
        raise InputError(f"The mark {mark.kind!r} is not known; choose one of {', '.join(MARKS)}.")
    if mark.kind in ("note", "tag", "untag") and not mark.value.strip():
        raise InputError(f"Write something for the {mark.kind}.")
    longest = LONGEST_NOTE if mark.kind == "note" else LONGEST_TAG
    if mark.kind in ("note", "tag") and len(mark.value) > longest:
        raise InputError(f"A {mark.kind} holds at most {longest} characters.")
    with store.writing() as db:
        _status(store, mark.run_id)
        standing = tags(marks(store, mark.run_id)) if mark.kind == "untag" else []
        if mark.kind == "untag" and mark.value not in standing:
            raise InputError(
                f"{mark.run_id} has no tag {mark.value!r}{nearest(mark.value, standing)}."
            )
        db.table("run_marks").insert(
            {
                "run_id": mark.run_id,
                "kind": mark.kind,
                "value": mark.value,
                "by": mark.by,
                "created": mark.created,
            }
        )


def marks(store: Store, run_id: str | None = None) -> list[Mark]:
    """The marks of a run, or of all runs, oldest first."""
    where, params = ("WHERE run_id = ?", [run_id]) if run_id else ("", [])
    rows = store.rows(f"SELECT * FROM run_marks {where} ORDER BY mark_id", params)
    return [Mark(r["run_id"], r["kind"], r["value"], r["by"], r["created"]) for r in rows]


def tags(run_marks: list[Mark]) -> list[str]:
    """The tags that stand after all marks of one run, in the order in which they came."""
    standing: dict[str, None] = {}
    for mark in run_marks:
        if mark.kind == "tag":
            standing[mark.value] = None
        elif mark.kind == "untag":
            standing.pop(mark.value, None)
    return list(standing)


def deleted(store: Store) -> set[str]:
    """The runs whose artefacts lie in the bin."""
    gone: set[str] = set()
    for mark in marks(store):
        if mark.kind == "delete":
            gone.add(mark.run_id)
        elif mark.kind == "restore":
            gone.discard(mark.run_id)
    return gone


def finished(store: Store, stage: str) -> list[Run]:
    """The finished runs of a stage that are not deleted, newest first."""
    gone = deleted(store)
    return [r for r in runs.runs(store, stage) if r.status == "finished" and r.run_id not in gone]


def latest_run(store: Store, stage: str) -> Run | None:
    """The newest of them, or None."""
    return next(iter(finished(store, stage)), None)


def current_policy(store: Store) -> Mark | None:
    """The last promotion of a run that is not deleted; None where there is none."""
    gone = deleted(store)
    promoted = [m for m in marks(store) if m.kind in PROMOTIONS and m.run_id not in gone]
    return promoted[-1] if promoted else None


def _request_row(request: Request) -> dict[str, Any]:
    return {
        "run_id": request.run_id,
        "stage": request.stage,
        "config": json.dumps(request.config),
        "files": json.dumps(request.files),
        "launch": json.dumps(request.launch),
        "after": json.dumps(request.after),
        "resume": int(request.resume),
        "created_by": request.created_by,
        "created": request.created,
    }


def _request(row: dict[str, Any]) -> Request:
    return Request(
        row["run_id"],
        row["stage"],
        json.loads(row["config"]),
        json.loads(row["files"]),
        json.loads(row["launch"]),
        tuple(json.loads(row["after"])),
        bool(row["resume"]),
        row["created_by"],
        row["created"],
    )
