"""Where a labeler stands: may they rank, must they practise, and what the project manager has decided about them.

Decisions are append-only and carry a reason. What follows from them (paused, excluded, a new round of practice) stands
in columns of the labeler, set in the same transaction, so that each request reads one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from alignment.config import LabellingConfig
from alignment.errors import InputError, NotAllowedError, StoreError
from alignment.feedback import audit
from alignment.feedback.store import Store, now

ACTIONS = ("pause", "resume", "exclude", "include", "message", "requalify")
MAX_DECISION_REASON = 1000
_CHANGES = {
    "pause": "paused = 1",
    "resume": "paused = 0",
    "exclude": "excluded = 1",
    "include": "excluded = 0",
    "requalify": "qualified = NULL, practice_round = practice_round + 1, practice_first = practice_round + 1",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """`state`: ready, practice, not-qualified, paused or excluded. `message`: what to tell the labeler, or None."""

    state: str
    message: str | None


def standing(store: Store, labeler_id: str, rules: LabellingConfig) -> Standing:
    """The labeler's standing. Who has ranked before practice was introduced need not practise."""
    with store.reading() as db:
        row = _labeler(db, labeler_id)
        return Standing(_state(db, row, rules), _message(db, row))


def _labeler(db: Database, labeler_id: str) -> dict[str, Any]:
    rows = list(db.query("SELECT * FROM labelers WHERE labeler_id = ?", [labeler_id]))
    if not rows:
        raise StoreError(f"There is no labeler {labeler_id!r} in this workspace.")
    return rows[0]


def _state(db: Database, row: dict[str, Any], rules: LabellingConfig) -> str:
    if row["excluded"] or row["paused"]:
        return "excluded" if row["excluded"] else "paused"
    if row["qualified"] == 1 or not rules.practice_tasks:
        return "ready"
    if row["qualified"] == 0:
        return "not-qualified"
    begun = (
        row["practice_round"]
        or db.execute(
            "SELECT 1 FROM practice_tasks WHERE labeler_id = ? LIMIT 1", [row["labeler_id"]]
        ).fetchone()
    )
    if begun:
        return "practice"
    ranked = db.execute(
        "SELECT 1 FROM rankings WHERE labeler_id = ? LIMIT 1", [row["labeler_id"]]
    ).fetchone()
    return "ready" if ranked else "practice"


def _message(db: Database, row: dict[str, Any]) -> str | None:
    """The reason of a pause or exclusion, else the manager's newest unread message."""
    actions = ["message", "requalify"]
    after = row["read_decision"]
    if row["excluded"] or row["paused"]:
        actions, after = ["exclude" if row["excluded"] else "pause"], 0
    found = db.execute(
        "SELECT reason FROM decisions WHERE labeler_id = ? AND decision_id > ? AND action IN (?, ?) "
        "ORDER BY decision_id DESC LIMIT 1",
        [row["labeler_id"], after, actions[0], actions[-1]],
    ).fetchone()
    return found[0] if found else None


def read_messages(store: Store, labeler_id: str) -> None:
    """Mark what the manager wrote so far as read."""
    with store.writing() as db:
        db.execute(
            "UPDATE labelers SET read_decision = coalesce((SELECT max(decision_id) FROM decisions d "
            "WHERE d.labeler_id = labelers.labeler_id), 0) WHERE labeler_id = ?",
            [labeler_id],
        )


def check_may_answer(db: Database, labeler_id: str) -> None:
    """`NotAllowedError` where the labeler is paused or excluded; the draft stays."""
    row = _labeler(db, labeler_id)
    if row["excluded"] or row["paused"]:
        state = "excluded from" if row["excluded"] else "paused in"
        reason = _message(db, row)
        raise NotAllowedError(
            f"You are {state} this project{': ' + reason if reason else ''}. Your draft is kept; ask the project's "
            "manager."
        )


def decide(store: Store, labeler_id: str, action: str, reason: str, by: str) -> int:
    """Record a decision about a labeler, with its reason, and let it take effect; returns its id.

    An exclusion frees the labeler's places in tasks, so that others rank them; an inclusion takes them again, even
    where the task then has more rankings than its overlap. Raises `InputError` on an unknown action or a missing
    reason, `StoreError` where the labeler is unknown or the decision would change nothing.
    """
    reason = reason.strip()
    if action not in ACTIONS:
        raise InputError(
            f"The decision {action!r} is not known; choose one of {', '.join(ACTIONS)}."
        )
    if not 1 <= len(reason) <= MAX_DECISION_REASON:
        raise InputError(f"A decision needs a reason of 1 to {MAX_DECISION_REASON} characters.")
    with store.writing() as db:
        row = _labeler(db, labeler_id)
        _check_change(row, action)
        decision_id = db.execute(
            "INSERT INTO decisions (labeler_id, action, reason, decided_by, created) VALUES (?, ?, ?, ?, ?)",
            [labeler_id, action, reason, by, now()],
        ).lastrowid
        if action in _CHANGES:
            db.execute(f"UPDATE labelers SET {_CHANGES[action]} WHERE labeler_id = ?", [labeler_id])
        if action in ("exclude", "include"):
            _recount(db, labeler_id, -1 if action == "exclude" else 1)
        audit.note(db, by, action, f"labeler {labeler_id}", reason=reason)
        return int(decision_id or 0)


def _check_change(row: dict[str, Any], action: str) -> None:
    already = {
        "pause": row["paused"],
        "resume": not row["paused"],
        "exclude": row["excluded"],
        "include": not row["excluded"],
    }
    if row["simulated"] and action not in ("exclude", "include"):
        raise StoreError(f"{row['labeler_id']!r} is a simulation: there is nobody to {action}.")
    if already.get(action):
        state = {"pause": "paused already", "resume": "not paused", "exclude": "excluded already"}
        raise StoreError(
            f"{row['labeler_id']!r} is {state.get(action, 'not excluded')}. Nothing was changed."
        )


def _recount(db: Database, labeler_id: str, change: int) -> None:
    db.execute(
        "UPDATE tasks SET taken = taken + :change, answered = answered + :change WHERE task_id IN "
        "(SELECT task_id FROM rankings WHERE labeler_id = :labeler AND kind = 'ranking' AND simulated = 0 "
        "AND supersedes IS NULL AND task_id IS NOT NULL)",
        {"labeler": labeler_id, "change": change},
    )


def decisions(store: Store, labeler_id: str | None = None) -> list[dict[str, Any]]:
    """Decisions, newest first: of one labeler, or all."""
    return store.rows(
        "SELECT * FROM decisions WHERE ? IS NULL OR labeler_id = ? ORDER BY decision_id DESC",
        [labeler_id, labeler_id],
    )


def needed(rules: LabellingConfig, total: int) -> int:
    """How many of `total` practice tasks must be answered right."""
    return math.ceil(rules.qualification_threshold * total - 1e-9)
