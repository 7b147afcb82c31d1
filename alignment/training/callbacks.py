"""What every trainer tells while it runs: progress with the latest figures, and one JSON line per logged step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback

from alignment.errors import TrainingError
from alignment.files import disk_errors
from alignment.models.distributed import is_main
from alignment.progress import Progress


class ReportProgress(TrainerCallback):
    """Report each optimizer step to `progress`, with the figures named in `show`."""

    def __init__(self, progress: Progress, label: str, show: tuple[str, ...] = ("loss",)) -> None:
        self.progress, self.label, self.show = progress, label, show
        self.note = ""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        shown = {key: (logs or {}).get(key) for key in self.show}
        parts = [
            f"{key} {value:.3g}" for key, value in shown.items() if isinstance(value, int | float)
        ]
        self.note = "  ".join(parts) or self.note

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.progress(self.label, state.global_step, state.max_steps, self.note)


class WriteMetrics(TrainerCallback):
    """Append each log as a line of `metrics.jsonl`; a loss that is not a number stops the run with a reason."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        logs = logs or {}
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"The loss became {logs['loss']} at step {state.global_step}. Lower the learning rate, or look for "
                "broken rows in the data; the run was stopped and marked failed."
            )
        append_jsonl(self.path, {"step": state.global_step, **finite(logs)})


def without_printing(trainer: Trainer) -> Trainer:
    """The trainer, which no longer prints each log to the standard output."""
    trainer.remove_callback(PrinterCallback)
    return trainer


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The entries that are not NaN or infinite: those are not JSON."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a live record, in the main process; readers skip a last line without its end."""
    if not is_main():
        return
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
