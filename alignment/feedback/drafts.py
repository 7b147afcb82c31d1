"""Drafts: what a labeler has done on a task so far, kept on the server so that any device can go on.

Each save names the version it knows. A save that does not know the newest one is refused with it, so that two tabs
cannot overwrite each other silently.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlite_utils import Database

from alignment.errors import StoreError
from alignment.feedback.store import Store, now


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer in the making. `ranks` may lack completions."""

    ranks: dict[str, int] = field(default_factory=dict)
    none_acceptable: bool = False
    flags: dict[str, list[str]] = field(default_factory=dict)
    rationale: str = ""
    confidence: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class DraftConflict(StoreError):
    """A newer draft is stored: `version` and `draft` are its."""

    def __init__(self, version: int, draft: Draft) -> None:
        super().__init__(
            "A newer draft of this task was saved in another tab or on another device. Go on from that one."
        )
        self.version = version
        self.draft = draft


def save_draft(store: Store, labeler_id: str, token: str, version: int, draft: Draft) -> int:
    """Store the draft as the successor of `version` (0: there was none) and return its own version.

    Saving again what is stored changes nothing. Raises `DraftConflict` where a newer one is stored, `StoreError` where
    the task is not the labeler's.
    """
    text = json.dumps(draft.to_json(), ensure_ascii=False, sort_keys=True)
    with store.writing(durable=False) as db:
        if not is_open(db, labeler_id, token):
            raise StoreError("This task is no longer open for you. Load the next one.")
        known = db.execute("SELECT version, draft FROM drafts WHERE token = ?", [token]).fetchone()
        stored = known[0] if known else 0
        if known and known[1] == text:
            return stored
        if version != stored:
            raise DraftConflict(stored, Draft(**json.loads(known[1])) if known else Draft())
        db.execute(
            "INSERT INTO drafts (token, labeler_id, version, draft, updated) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (token) DO UPDATE SET version = excluded.version, draft = excluded.draft, "
            "updated = excluded.updated",
            [token, labeler_id, stored + 1, text, now()],
        )
        return stored + 1


def is_open(db: Database, labeler_id: str, token: str) -> bool:
    """Whether the token is that of an open task, or practice task, of the labeler."""
    return (
        db.execute(
            "SELECT 1 FROM leases WHERE token = :token AND labeler_id = :labeler UNION ALL "
            "SELECT 1 FROM practice_tasks WHERE token = :token AND labeler_id = :labeler AND NOT EXISTS "
            "(SELECT 1 FROM practice_answers a WHERE a.token = :token)",
            {"token": token, "labeler": labeler_id},
        ).fetchone()
        is not None
    )


def draft_of(store: Store, token: str) -> tuple[Draft | None, int]:
    """The draft of a task and its version; None and 0 where there is none."""
    rows = store.rows("SELECT version, draft FROM drafts WHERE token = ?", [token])
    return (Draft(**json.loads(rows[0]["draft"])), rows[0]["version"]) if rows else (None, 0)


def drop_draft(db: Database, token: str) -> None:
    """Forget the draft of an answered task, inside the caller's transaction."""
    db.execute("DELETE FROM drafts WHERE token = ?", [token])
