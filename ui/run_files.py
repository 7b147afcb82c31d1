"""The files in a run's folder, read for showing. Other processes write them: one may be missing, or half there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from alignment.errors import InputError, StoreError
from alignment.evaluation.plots import TRAINING_PANELS
from alignment.files import read_json

SHOWN_ITEMS = 8  # of a list
STEP_KEYS = ("iteration", "step")
_BOOKKEEPING = frozenset(
    (*STEP_KEYS, "epoch", "time", "seconds", "total_flos", "num_input_tokens_seen")
)
_NOT_WORTH_A_CURVE = ("_runtime", "_per_second", "_seconds")


def run_folder(workspace: Path, run_id: str) -> Path:
    """`runs/<run_id>` of the workspace; `StoreError` where the id would lead out of it."""
    runs = (workspace / "runs").resolve()
    folder = (runs / run_id).resolve()
    if folder.parent != runs:
        raise StoreError(f"{run_id!r} is no run of this workspace.")
    return folder


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a live `metrics.jsonl`, without a last line still being written; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def read_list(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file that holds a list of them; none where there is no such file."""
    if not path.is_file():
        return []
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} does not hold a list of JSON objects.")
    return rows


def curves(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Panels of training curves: a title, and points `{"step", "value", "series"}`.

    Figures that PPO logs come first, in the order of the report; every other number that was logged follows.
    """
    known = {key for _, keys in TRAINING_PANELS for key in keys}
    others = dict.fromkeys(
        key
        for row in rows
        for key, value in row.items()
        if key not in known and _is_curve(key, value)
    )
    wanted = [*TRAINING_PANELS, *((key.replace("_", " "), (key,)) for key in others)]
    panels = ((title, [p for key in keys for p in _points(rows, key)]) for title, keys in wanted)
    return [(title, points) for title, points in panels if points]


def _points(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    name = key.replace("_", " ")
    return [
        {"step": step_of(row, index), "value": row[key], "series": name}
        for index, row in enumerate(rows)
        if _is_number(row.get(key))
    ]


def step_of(row: dict[str, Any], index: int) -> float:
    """Where a row stands on the horizontal axis: its iteration or step, or its place in the file."""
    return next((row[key] for key in STEP_KEYS if _is_number(row.get(key))), index)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_curve(key: str, value: Any) -> bool:
    return _is_number(value) and key not in _BOOKKEEPING and not key.endswith(_NOT_WORTH_A_CURVE)


def flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested configuration as dotted keys and readable values."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += flatten(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", readable(value)))
    return lines


def readable(value: Any) -> str:
    """A value as people write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        shown = ", ".join(map(readable, value[:SHOWN_ITEMS])) or "none"
        return f"{shown} and {len(value) - SHOWN_ITEMS} more" if len(value) > SHOWN_ITEMS else shown
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
