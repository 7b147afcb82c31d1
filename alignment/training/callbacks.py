"""What every trainer tells while it runs: progress with the latest figures, and one JSON line per logged step."""

from __future__ import annotations

import json
import math
import time
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
        self.begun, self.first_step = 0.0, 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.begun, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        shown = {key: (logs or {}).get(key) for key in self.show}
        parts = [
            f"{key} {value:.3g}" for key, value in shown.items() if isinstance(value, int | float)
        ]
        self.note = "  ".join(parts) or self.note

    def on_step_end(self, args, state, control, **kwargs) -> None:
        pace = (time.monotonic() - self.begun) / max(state.global_step - self.first_step, 1)
        left = _duration(pace * (state.max_steps - state.global_step))
        self.progress(
            self.label, state.global_step, state.max_steps, f"{self.note}  {left} left".strip()
        )


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


def _duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


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
