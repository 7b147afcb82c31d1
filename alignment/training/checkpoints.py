"""Which checkpoints of a run can be resumed from: those with a completion marker, which is written last.

A process that is killed while it saves leaves a folder without the marker; it never counts.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from transformers import TrainerCallback

CHECKPOINTS_FOLDER, MARKER = "checkpoints", "complete"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """Write the marker into a checkpoint folder, after everything in it has reached the disk."""
    folder = Path(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
    _sync(folder)
    marker = folder / MARKER
    marker.touch()
    _sync(marker)
    _sync(folder)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint among the `checkpoint-STEP` folders in `folder`, or None."""
    complete = [path for path in _checkpoints(folder) if (path / MARKER).is_file()]
    return max(complete, key=_step) if complete else None


def discard_incomplete(folder: Path) -> None:
    """Remove checkpoints that a killed process left without a marker, so that they do not count as newest."""
    for path in _checkpoints(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


class MarkCheckpoints(TrainerCallback):
    """Mark each checkpoint as complete once the trainer has written all of it."""

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def _checkpoints(folder: Path) -> list[Path]:
    folder = Path(folder)
    return [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
