"""The labelling guidelines and their versions: a new one whenever the text has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignment.errors import StoreError
from alignment.feedback.store import Store, now
from alignment.files import data_folder

GUIDELINES_FILE = "guidelines.md"


@dataclass(frozen=True, slots=True)
class Guidelines:
    """A version, counted from 1, and its Markdown."""

    version: int
    text: str


def guidelines_path(workspace: Path) -> Path:
    """The workspace's own guidelines, or those that ship with Concord."""
    own = workspace / GUIDELINES_FILE
    return own if own.is_file() else data_folder() / GUIDELINES_FILE


def keep_version(store: Store, text: str) -> Guidelines:
    """The version of this text: the newest one where the text is the same, else a new one."""
    rows = store.rows("SELECT version, text FROM guidelines ORDER BY version DESC LIMIT 1")
    if rows and rows[0]["text"] == text:
        return Guidelines(**rows[0])
    with store.writing() as db:
        newest = db.execute("SELECT version, text FROM guidelines ORDER BY version DESC").fetchone()
        if newest is None or newest[1] != text:
            version = (newest[0] if newest else 0) + 1
            db.execute("INSERT INTO guidelines VALUES (?, ?, ?)", [version, text, now()])
            return Guidelines(version, text)
        return Guidelines(newest[0], text)


def guidelines_version(store: Store, version: int) -> Guidelines:
    """An earlier version; `StoreError` where there is none of that number."""
    rows = store.rows("SELECT version, text FROM guidelines WHERE version = ?", [version])
    if not rows:
        raise StoreError(f"There is no version {version} of the guidelines.")
    return Guidelines(**rows[0])
