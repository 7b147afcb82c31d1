"""Who did what when: append-only, and written in the transaction of what it tells of."""

from __future__ import annotations

import json
from typing import Any

from sqlite_utils import Database

from alignment.feedback.store import Store, now


def note(db: Database, who: str, action: str, subject: str = "", **detail: Any) -> None:
    """Append a line, inside the caller's transaction."""
    db.execute(
        "INSERT INTO audit (at, who, action, subject, detail) VALUES (?, ?, ?, ?, ?)",
        [now(), who, action, subject, json.dumps(detail, ensure_ascii=False)],
    )


def record(store: Store, who: str, action: str, subject: str = "", **detail: Any) -> None:
    """Append a line, in a transaction of its own."""
    with store.writing() as db:
        note(db, who, action, subject, **detail)


def entries(
    store: Store, limit: int = 200, *, who: str | None = None, action: str | None = None
) -> list[dict[str, Any]]:
    """The newest lines first, of one account or one action where given."""
    rows = store.rows(
        "SELECT * FROM audit WHERE (? IS NULL OR who = ?) AND (? IS NULL OR action = ?) "
        "ORDER BY audit_id DESC LIMIT ?",
        [who, who, action, action, limit],
    )
    return [{**row, "detail": json.loads(row["detail"])} for row in rows]
