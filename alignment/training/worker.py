"""What `alignment.training.launch` starts in each process: `python -m alignment.training.worker FOLDER`.

FOLDER is the run's `launch/`. A worker reads `spec.json` there, runs the stage's function, and leaves its output in
`rank-N.log`. The main process writes `progress.jsonl` while it trains and `result.json` at the end. One that fails
leaves `failure-N.json`. No worker knows the store.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from alignment.errors import ConcordError
from alignment.files import read_json, write_json

SPEC, PROGRESS, RESULT = "spec.json", "progress.jsonl", "result.json"
SECONDS_BETWEEN_REPORTS = 0.2


def log_file(folder: Path, rank: int) -> Path:
    """Where the process of this rank leaves what it prints."""
    return folder / f"rank-{rank}.log"


def failure_file(folder: Path, rank: int) -> Path:
    """Where the process of this rank says why it failed."""
    return folder / f"failure-{rank}.json"


def run(spec: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Run the stage that `spec` names, in this process, and return its figures."""
    from alignment import config as settings
    from alignment.models.loading import load_tokenizer
    from alignment.records import LabelerEvidence, PreferencePair, Prompt

    base, tokenizer = spec["base"], load_tokenizer(spec["base"])
    precision = spec["base_precision"]
    if spec["stage"] == "ppo":
        from alignment.training.ppo import train_ppo

        config = settings.PPOTrainingConfig.model_validate(spec["config"])
        prompts, held_out = (
            [Prompt.from_json(row) for row in spec[key]] for key in ("prompts", "held_out")
        )
        result = train_ppo(
            base,
            tokenizer,
            None if spec["reward_model"] is None else Path(spec["reward_model"]),
            prompts,
            held_out,
            config,
            out,
            progress,
            resume=spec["resume"],
            base_precision=precision,
        )
    else:
        from alignment.training.reward import train_reward

        config = settings.RewardTrainingConfig.model_validate(spec["config"])
        train, held_out = (
            [PreferencePair.from_json(row) for row in spec[key]] for key in ("pairs", "held_out")
        )
        told = spec["evidence"]
        result = train_reward(
            base,
            tokenizer,
            train,
            held_out,
            config,
            out,
            progress,
            evidence=LabelerEvidence.from_json(told) if told else None,
            tasks=spec["tasks"],
            resume=spec["resume"],
            base_precision=precision,
        )
    return result.to_json()


class ReportProgress:
    """Progress as lines of a file, at most a few a second."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.last < SECONDS_BETWEEN_REPORTS:
            return
        self.last = now
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([label, done, total, note], ensure_ascii=False) + "\n")


def end_with(starter: int) -> None:
    """End this process when its launcher, or the command `starter` that started the launcher, is no longer there.

    A command that is killed cannot clean up; its workers must not train on.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher and _parent(launcher) == starter:
            time.sleep(1)
        os._exit(1)

    if _parent(launcher) == starter:
        threading.Thread(target=watch, daemon=True).start()


def _parent(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def main(folder: Path) -> int:
    """Run the stage of `folder/spec.json` as one process of several."""
    from alignment.models import distributed
    from alignment.progress import silent

    rank, spec = distributed.rank(), read_json(folder / SPEC)
    end_with(int(os.environ["CONCORD_STARTER"]))
    log = os.open(log_file(folder, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    distributed.enter()
    distributed.allow_fsdp_on_cpu()
    try:
        progress = ReportProgress(folder / PROGRESS) if rank == 0 else silent
        figures = run(spec, folder.parent, progress)
    except BaseException as error:
        traceback.print_exc()
        ours = type(error).__name__ if isinstance(error, ConcordError) else None
        reason = str(error) if ours else f"{type(error).__name__}: {error}"
        write_json(failure_file(folder, rank), {"kind": ours, "message": reason, "at": time.time()})
        # The others wait for this process in a collective: do not let clean-up wait for them.
        os._exit(1)
    if rank == 0:
        write_json(folder / RESULT, figures)
    distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
