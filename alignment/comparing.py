"""Runs beside each other: where their configurations differ, and what came out; as a table for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.control import options_of
from alignment.errors import InputError
from alignment.feedback import run_queue, runs
from alignment.feedback.runs import Run
from alignment.files import write_text
from alignment.workspace import Workspace


def compare(workspace: Workspace, run_ids: Sequence[str]) -> dict[str, Any]:
    """Several runs beside each other: `differences` of their configurations (key -> one value per run), and `outcomes`.

    The outcome of a PPO run takes toxicity, perplexity and verdict from the newest evaluation of its policy. Raises
    `InputError` where fewer than two runs are named.
    """
    if len(set(run_ids)) < 2:
        raise InputError("Name two runs or more to see them beside each other.")
    chosen = [runs.run(workspace.store, run_id) for run_id in run_ids]
    options = [options_of(workspace, run) for run in chosen]
    differences = {
        key: [one.get(key) for one in options]
        for key in sorted({key for one in options for key in one})
        if any(one.get(key) != options[0].get(key) for one in options[1:])
    }
    return {
        "runs": [run.run_id for run in chosen],
        "differences": differences,
        "outcomes": [outcome(workspace, run) for run in chosen],
    }


_OUTCOME = (
    "completions", "usable_pairs", "krippendorff_alpha", "accuracy",
    "reward_last", "kl", "explained_variance", "stop_reason", "iterations",
)  # fmt: skip
_JUDGED = ("toxicity_before", "toxicity_after", "toxicity_reduction", "perplexity_after")


def outcome(workspace: Workspace, run: Run) -> dict[str, Any]:
    """The figures by which runs are compared."""
    row: dict[str, Any] = {"run_id": run.run_id, "stage": run.stage, "status": run.status}
    row |= {key: run.metrics[key] for key in _OUTCOME if key in run.metrics}
    judged = run if run.stage == "evaluate" else evaluation_of(workspace, run)
    if judged is not None:
        row |= {key: judged.metrics[key] for key in _JUDGED if key in judged.metrics}
        given = runs.reviews(workspace.store, judged.run_id)
        row["verdict"] = given[-1].verdict if given else None
    return row


def evaluation_of(workspace: Workspace, run: Run) -> Run | None:
    """The newest finished evaluation of a PPO run's policy."""
    if run.folder is None:
        return None
    folder = Path(run.folder).resolve()
    for other in run_queue.finished(workspace.store, "evaluate"):
        policy = other.inputs.get("policy")
        if policy and Path(policy).resolve() == folder:
            return other
    return None


def compare_csv(found: dict[str, Any]) -> str:
    """What `compare` found as CSV: a row per run, a column per figure; those of its interval end in _low and _high.

    What the configurations differ in stands in the columns that begin with `config.`.
    """
    table = []
    for place, outcome in enumerate(found["outcomes"]):
        row: dict[str, Any] = {}
        for key, value in outcome.items():
            if isinstance(value, dict):
                row |= {key if part == "mean" else f"{key}_{part}": v for part, v in value.items()}
            else:
                row[key] = value
        values = {key: column[place] for key, column in found["differences"].items()}
        table.append(row | {f"config.{key}": _cell(value) for key, value in values.items()})
    columns = dict.fromkeys(key for row in table for key in row)
    ordered = sorted(columns, key=lambda key: key.startswith("config."))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ordered, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


def write_csv(path: Path, found: dict[str, Any]) -> None:
    """Write `compare_csv` to a new file. `InputError` where it exists."""
    if path.exists():
        raise InputError(f"{path} exists already. Choose another name; nothing was overwritten.")
    write_text(path, compare_csv(found))


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
