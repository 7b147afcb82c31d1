"""Checkpoints that are whole or do not count: the marker `complete` is written last.

Beside them lies of which data and options they are, so that a training does not go on with others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError

from alignment.errors import TrainingError
from alignment.files import read_json, write_json
from alignment.models.distributed import is_main

COMPLETE, DATA_FILE = "complete", "data.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """Sync the files of the checkpoint in `folder` to disk, then write the marker that says it is whole."""
    folder = Path(folder)
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    marker = folder / COMPLETE
    with marker.open("w", encoding="utf-8") as file:
        file.write("This checkpoint is whole.\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete `checkpoint-N` of the largest N in `folder`, or None; one without its marker is never picked."""
    numbered = _numbered(folder)
    whole = [number for number, path in numbered.items() if (path / COMPLETE).is_file()]
    return numbered[max(whole)] if whole else None


def remove_incomplete(folder: Path) -> None:
    """Delete checkpoints that were being written when a run ended."""
    for path in _numbered(folder).values():
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)


def could_not_write(error: BaseException) -> bool:
    """Whether `error` says that a checkpoint could not be written, by Python, safetensors or torch's zip writer."""
    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError)
    return isinstance(error, SafetensorError) or "inline_container.cc" in str(error)


def begin(folder: Path, content: Any, resume: bool) -> Path | None:
    """The checkpoint in `folder` to go on from, or None for a fresh start; the folder is tidied accordingly.

    `content`: data and options, as anything JSON holds. Call it once the trainer is there, which introduces the
    processes to each other. Raises `TrainingError` where the checkpoints are of other data or options.
    """
    with PartialState().main_process_first():  # the others find the folder tidied
        checkpoint = latest_checkpoint(folder) if resume else None
        if checkpoint is not None:
            _check_origin(folder, content)
        if is_main() and checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / DATA_FILE, _digest(content))
        elif is_main():
            remove_incomplete(folder)
    return checkpoint


def _check_origin(folder: Path, content: Any) -> None:
    if not (folder / DATA_FILE).is_file() or read_json(folder / DATA_FILE) != _digest(content):
        raise TrainingError(
            f"The checkpoints in {folder} belong to other data or options than those given now, so going on would mix "
            "two trainings. Start a new run instead; nothing was changed."
        )


def _digest(content: Any) -> dict[str, str]:
    text = json.dumps(content, sort_keys=True)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def _numbered(folder: Path) -> dict[int, Path]:
    if not Path(folder).is_dir():
        return {}
    found = ((_NAME.fullmatch(path.name), path) for path in Path(folder).iterdir())
    return {int(match[1]): path for match, path in found if match and path.is_dir()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
