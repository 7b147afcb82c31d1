"""What labelers answer: submitting, editing, undoing, skipping.

An answer is stored once however often it is sent. An edited answer supersedes the earlier one, which stays; it goes by
the same rules as any: a lease with a token, and a ranking of exactly the task's completions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from alignment.config import LabellingConfig
from alignment.errors import InputError, StoreError
from alignment.feedback import audit
from alignment.feedback.assignment import (
    RULES,
    Lease,
    holds,
    lapse,
    lease_of,
    open_lease,
    stop_clocks,
)
from alignment.feedback.drafts import drop_draft
from alignment.feedback.standing import check_may_answer
from alignment.feedback.store import Store, now, ranking_row
from alignment.records import Ranking, check_ranks, text_of

FLAGS = ("toxic", "hateful", "sexual", "violent", "personal-data", "false", "other")
MAX_RATIONALE, MAX_REASON, EXCERPT = 4000, 500, 160
_GONE = "This task is no longer open for you. Load the next one; nothing was stored."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a labeler says about a task.

    `ranks`: completion id -> rank, 1 is best, equal ranks are ties. `flags`: completion id -> harm categories of
    `FLAGS`. `confidence`: from 1 (a guess) to 5 (certain), or None.
    """

    ranks: dict[str, int]
    none_acceptable: bool = False
    flags: dict[str, list[str]] = field(default_factory=dict)
    rationale: str = ""
    confidence: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answer:
        """The answer in a row of the rankings."""
        return cls(
            json.loads(row["ranks"]),
            bool(row["none_acceptable"]),
            json.loads(row["flags"] or "{}"),
            row["rationale"] or "",
            row["confidence"],
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A committed answer."""

    ranking_id: int
    answer: Answer
    positions: dict[str, int]


def check_answer(answer: Answer, completion_ids: tuple[str, ...]) -> None:
    """`InputError` unless the answer ranks exactly these completions and the rest of it makes sense."""
    if set(answer.ranks) != set(completion_ids):
        raise InputError("The ranking must place every completion of the task, and no other.")
    check_ranks(answer.ranks)
    check_remarks(answer.flags, answer.rationale, answer.confidence, completion_ids)


def check_remarks(
    flags: Mapping[str, list[str]],
    rationale: str,
    confidence: int | None,
    completion_ids: tuple[str, ...],
) -> None:
    """`InputError` on flags of other completions or unknown kinds, a long rationale, a confidence beyond 1 to 5."""
    for completion_id, kinds in flags.items():
        if completion_id not in completion_ids:
            raise InputError("A flag names a completion that is not of this task.")
        for kind in kinds:
            if kind not in FLAGS:
                raise InputError(f"The flag {kind!r} is not known; choose of {', '.join(FLAGS)}.")
    if len(rationale) > MAX_RATIONALE:
        raise InputError(f"The rationale is longer than {MAX_RATIONALE} characters. Shorten it.")
    if confidence is not None and not 1 <= confidence <= 5:
        raise InputError("The confidence goes from 1 (a guess) to 5 (certain).")


def submit(
    store: Store,
    labeler_id: str,
    token: str,
    answer: Answer | dict[str, int],
    *,
    guidelines_version: int | None = None,
    by: str | None = None,
) -> Stored:
    """Turn the lease of `token` into a ranking; a repeated submit of the same token returns the stored one.

    Raises `InputError` where the answer does not rank exactly the task's completions, `StoreError` where the lease is
    not this labeler's, was answered otherwise, or lost its place after it ran out, `NotAllowedError` where the labeler
    is paused or excluded. `by`: the account, for the audit log.
    """
    if isinstance(answer, dict):
        answer = Answer(answer)
    moment = time.time()
    with store.writing() as db:
        known = next(iter(db.query("SELECT * FROM rankings WHERE token = ?", [token])), None)
        if known is not None:
            if known["labeler_id"] != labeler_id or Answer.from_row(known) != answer:
                raise StoreError(
                    "This task was already answered, in another tab perhaps. The stored answer stands."
                )
            return Stored(known["ranking_id"], answer, json.loads(known["positions"]))
        lease = _own_lease(store, labeler_id, token)
        if lease["skipped"]:
            raise StoreError("You have skipped this task. Reopen it to answer it.")
        check_may_answer(db, labeler_id)
        task = store.task(lease["task_id"])
        check_answer(answer, task.completion_ids)
        lapse(db, moment)
        if lease["lapsed"] or lease["expires"] <= moment:
            lease = _own_lease(store, labeler_id, token)
            if not holds(db, lease):
                raise StoreError(
                    "Your turn at this task had run out and others have completed it. Load the next one."
                )
        positions = json.loads(lease["positions"])
        shown = moment if lease["shown"] is None else lease["shown"]
        seconds = round(lease["spent"] + max(0.0, moment - shown), 3)
        ranking = Ranking(
            task.prompt_id,
            labeler_id,
            answer.ranks,
            positions,
            seconds,
            none_acceptable=answer.none_acceptable,
        )
        kind, edited = lease["kind"], lease["supersedes"]
        if kind == "edit":
            kind = _kind_of_standing(store, edited)
        # First the place held goes, then the ranking takes it: the count never passes the overlap.
        db.execute("DELETE FROM leases WHERE token = ?", [token])
        row = ranking_row(
            ranking,
            task_id=task.task_id,
            token=token,
            supersedes=edited,
            kind=kind,
            guidelines_version=guidelines_version,
            flags=json.dumps(answer.flags) if answer.flags else None,
            rationale=answer.rationale or None,
            confidence=answer.confidence,
        )
        ranking_id = db.execute(
            f"INSERT INTO rankings ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            list(row.values()),
        ).lastrowid
        drop_draft(db, token)
        action = "submit" if edited is None else "edit"
        audit.note(db, by or labeler_id, action, f"ranking {ranking_id}", task=task.task_id)
        return Stored(int(ranking_id or 0), answer, positions)


def _own_lease(store: Store, labeler_id: str, token: str) -> dict[str, Any]:
    """The labeler's lease of that token; `StoreError` where there is none."""
    rows = list(store.db.query("SELECT * FROM leases WHERE token = ?", [token]))
    if not rows or rows[0]["labeler_id"] != labeler_id:
        raise StoreError(_GONE)
    return rows[0]


def _kind_of_standing(store: Store, ranking_id: int) -> str:
    """The kind of the ranking that is being edited; `StoreError` where another edit came first."""
    row = store.db.execute(
        "SELECT kind FROM rankings r WHERE ranking_id = ? AND NOT EXISTS "
        "(SELECT 1 FROM rankings newer WHERE newer.supersedes = r.ranking_id)",
        [ranking_id],
    ).fetchone()
    if row is None:
        raise StoreError("This answer has been edited elsewhere meanwhile. Load your answers anew.")
    return str(row[0])


# Own earlier answers

_ANSWERS = (
    "SELECT r.*, t.closed, p.prompt FROM rankings r JOIN tasks t USING (task_id) "
    "JOIN prompts p ON p.prompt_id = r.prompt_id WHERE r.labeler_id = ? AND NOT EXISTS "
    "(SELECT 1 FROM rankings newer WHERE newer.supersedes = r.ranking_id)"
)


def answers(
    store: Store, labeler_id: str, limit: int = 50, rules: LabellingConfig = RULES
) -> list[dict[str, Any]]:
    """The labeler's standing answers, newest first: ranking_id, task_id, excerpt, created, edited, editable."""
    rows = store.rows(f"{_ANSWERS} ORDER BY r.ranking_id DESC LIMIT ?", [labeler_id, limit])
    return [
        {
            "ranking_id": row["ranking_id"],
            "task_id": row["task_id"],
            "excerpt": excerpt(row["prompt"]),
            "created": row["created"],
            "edited": row["supersedes"] is not None,
            "editable": _editable(row, rules),
        }
        for row in rows
    ]


def _editable(row: Mapping[str, Any], rules: LabellingConfig) -> bool:
    oldest = (datetime.now(UTC) - timedelta(days=rules.edit_days)).isoformat()
    return not row["closed"] and row["created"] >= oldest


def excerpt(prompt: str) -> str:
    """The beginning of a stored prompt, of its last turn where it is a chat."""
    loaded = json.loads(prompt)
    text = loaded if isinstance(loaded, str) else text_of(loaded[-1:])
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def undo(store: Store, labeler_id: str, rules: LabellingConfig = RULES) -> tuple[Lease, Answer]:
    """Open the labeler's last answer again. `StoreError` where there is none, or it can no longer be edited."""
    with store.writing() as db:
        rows = list(db.query(f"{_ANSWERS} ORDER BY r.ranking_id DESC LIMIT 1", [labeler_id]))
        if not rows:
            raise StoreError("There is nothing to undo: you have not answered yet.")
        return _reopen_answer(store, rows[0], labeler_id, rules)


def edit(
    store: Store, labeler_id: str, ranking_id: int, rules: LabellingConfig = RULES
) -> tuple[Lease, Answer]:
    """Open an own earlier answer; submitting it supersedes. `StoreError` where it is not a standing own one."""
    with store.writing() as db:
        rows = list(db.query(f"{_ANSWERS} AND r.ranking_id = ?", [labeler_id, ranking_id]))
        if not rows:
            raise StoreError(
                "This is not an answer of yours that stands. Load your answers anew; it may be edited already."
            )
        return _reopen_answer(store, rows[0], labeler_id, rules)


def _reopen_answer(
    store: Store, row: dict[str, Any], labeler_id: str, rules: LabellingConfig
) -> tuple[Lease, Answer]:
    if not _editable(row, rules):
        raise StoreError(
            "This answer can no longer be edited: its round is over, or it is too old."
        )
    check_may_answer(store.db, labeler_id)
    answer, moment = Answer.from_row(row), time.time()
    open_already = list(
        store.db.query(
            "SELECT * FROM leases WHERE task_id = ? AND labeler_id = ? AND kind = 'edit'",
            [row["task_id"], labeler_id],
        )
    )
    if open_already and open_already[0]["supersedes"] == row["ranking_id"]:
        return lease_of(store, open_already[0]), answer
    if open_already:  # of an answer to the same task that no longer stands, or of its repeat
        drop_lease(store, open_already[0]["token"])
    lease = open_lease(
        store,
        store.task(row["task_id"]),
        labeler_id,
        "edit",
        moment,
        moment + 60 * rules.lease_minutes,
        supersedes=row["ranking_id"],
        positions=None if row["positions"] is None else json.loads(row["positions"]),
    )
    return lease, answer


def superseded_answer(store: Store, ranking_id: int) -> Answer:
    """The answer that an edit would supersede."""
    return Answer.from_row(
        store.rows("SELECT * FROM rankings WHERE ranking_id = ?", [ranking_id])[0]
    )


def drop_lease(store: Store, token: str) -> None:
    """Forget a lease and its draft, inside the caller's transaction."""
    store.db.execute("DELETE FROM leases WHERE token = ?", [token])
    drop_draft(store.db, token)


def release(store: Store, labeler_id: str, token: str) -> None:
    """Leave an edit without change, or give a task back: its place is free and the draft waits.

    `StoreError` where the labeler holds no such lease.
    """
    with store.writing() as db:
        lease = _own_lease(store, labeler_id, token)
        if lease["kind"] == "edit":
            drop_lease(store, token)
        else:
            db.execute("UPDATE leases SET lapsed = 1 WHERE token = ?", [token])


# Skipping


def skip(store: Store, labeler_id: str, token: str, reason: str, by: str | None = None) -> None:
    """Say that one cannot judge a task; it comes back only when reopened, the draft with it.

    Raises `InputError` without a reason, `StoreError` where the labeler holds no such lease or is editing.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= MAX_REASON:
        raise InputError(f"Say in 1 to {MAX_REASON} characters why you cannot judge this task.")
    with store.writing() as db:
        lease = _own_lease(store, labeler_id, token)
        if lease["skipped"]:
            return  # sent again
        if lease["kind"] == "edit":
            raise StoreError(
                "This is an answer of yours being edited: submit it, or leave it as it was."
            )
        db.execute(
            "INSERT INTO skips (task_id, labeler_id, kind, reason, created) VALUES (?, ?, ?, ?, ?)",
            [lease["task_id"], labeler_id, lease["kind"], reason, now()],
        )
        db.execute("UPDATE leases SET lapsed = 1, skipped = 1 WHERE token = ?", [token])
        audit.note(db, by or labeler_id, "skip", f"task {lease['task_id']}", reason=reason)


def skips(store: Store, labeler_id: str) -> list[dict[str, Any]]:
    """What the labeler skipped and has not reopened, newest first: task_id, excerpt, reason, created."""
    rows = store.rows(
        "SELECT s.task_id, s.reason, s.created, p.prompt FROM skips s JOIN tasks t USING (task_id) "
        "JOIN prompts p USING (prompt_id) WHERE s.labeler_id = ? AND s.reopened IS NULL ORDER BY s.skip_id DESC",
        [labeler_id],
    )
    return [{**row, "excerpt": excerpt(row.pop("prompt"))} for row in rows]


def reopen(store: Store, labeler_id: str, task_id: str, rules: LabellingConfig = RULES) -> Lease:
    """Take a skipped task up again; it is the next one. `StoreError` where no place is left, or it was not skipped."""
    moment = time.time()
    with store.writing() as db:
        lapse(db, moment)
        skipped = list(
            db.query(
                "SELECT * FROM skips WHERE labeler_id = ? AND task_id = ? AND reopened IS NULL",
                [labeler_id, task_id],
            )
        )
        if not skipped:
            raise StoreError("You have not skipped this task, or it is open again already.")
        lease = next(
            db.query(
                "SELECT * FROM leases WHERE task_id = ? AND labeler_id = ? AND skipped = 1",
                [task_id, labeler_id],
            )
        )
        if not holds(db, lease):
            raise StoreError(
                "Others have completed this task meanwhile. Nothing is left to do on it."
            )
        db.execute(
            "UPDATE skips SET reopened = ? WHERE skip_id = ?", [now(), skipped[0]["skip_id"]]
        )
        stop_clocks(db, labeler_id, moment)
        db.execute(
            "UPDATE leases SET skipped = 0, lapsed = 0, opened = ?, shown = ?, expires = ? WHERE token = ?",
            [moment, moment, moment + 60 * rules.lease_minutes, lease["token"]],
        )
        return lease_of(store, lease)
