"""The folder of a run, for those who read its files."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import StoreError


def run_folder(workspace: Path, run_id: str) -> Path:
    """`runs/<run_id>` of the workspace; `StoreError` where the id would lead out of it."""
    runs = (workspace / "runs").resolve()
    folder = (runs / run_id).resolve()
    if folder.parent != runs:
        raise StoreError(f"{run_id!r} is no run of this workspace.")
    return folder
