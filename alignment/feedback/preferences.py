"""What an account has chosen for its own board."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from alignment.errors import InputError
from alignment.feedback.store import Store

BREAK_MINUTES = range(5, 241)


@dataclass(frozen=True, slots=True)
class Preferences:
    """`blur_toxic`: blur text that a scorer finds toxic; `break_minutes`: when a break is offered."""

    blur_toxic: bool = True
    break_minutes: int = 45
    shortcuts: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preferences(store: Store, account_id: str, defaults: Preferences) -> Preferences:
    """The account's choices over the project's defaults."""
    rows = store.rows("SELECT content FROM preferences WHERE account_id = ?", [account_id])
    return replace(defaults, **json.loads(rows[0]["content"])) if rows else defaults


def set_preferences(
    store: Store, account_id: str, defaults: Preferences, **changes: Any
) -> Preferences:
    """Change some choices, keep the others. `InputError` on a break outside of 5 to 240 minutes."""
    if changes.get("break_minutes", 45) not in BREAK_MINUTES:
        raise InputError("A break can be offered after 5 to 240 minutes.")
    chosen = {**_own(store, account_id), **changes}
    with store.writing() as db:
        db.execute(
            "INSERT OR REPLACE INTO preferences (account_id, content) VALUES (?, ?)",
            [account_id, json.dumps(chosen)],
        )
    return replace(defaults, **chosen)


def _own(store: Store, account_id: str) -> dict[str, Any]:
    rows = store.rows("SELECT content FROM preferences WHERE account_id = ?", [account_id])
    return json.loads(rows[0]["content"]) if rows else {}
