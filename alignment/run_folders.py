"""Runs of `--out FOLDER`, outside any workspace: whether one is at work, and how it is stopped and goes on."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment import pipeline
from alignment.config import Config
from alignment.errors import InputError
from alignment.feedback import runs
from alignment.feedback.run_queue import Request
from alignment.feedback.store import now
from alignment.files import read_json, write_json
from alignment.pipeline import Job
from alignment.processes import ProcessId, alive, end_tree
from alignment.progress import Progress, silent
from alignment.workspace import PROCESS_FILE, REQUEST_FILE, RUN_FILE, STOP_FILE

# The stages that keep checkpoints.
_TRAINS = {"reward": pipeline.train_reward, "ppo": pipeline.train_ppo}


def resume_folder(folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Go on with a training run of `--out FOLDER`, outside any workspace, from its last whole checkpoint.

    Raises `InputError` where the folder holds no run that can go on.
    """
    record = runs.Run(**read_json(folder / RUN_FILE))
    if record.stage not in _TRAINS:
        raise InputError(
            f"{folder} holds a {record.stage} run, which keeps no checkpoints. Start it again."
        )
    if record.status == "finished":
        raise InputError(f"The run in {folder} has finished; there is nothing to resume.")
    if at_work := _at_work(folder):
        process, host = at_work
        raise InputError(
            f"The run in {folder} is still at work (process {process.pid} on {host}). End it first: `concord runs stop "
            f"{folder}`. If that process was lost with its machine, delete {PROCESS_FILE} there."
        )
    if not (folder / REQUEST_FILE).is_file():
        raise InputError(
            f"The run in {folder} is one of a workspace. Go on with it there: `concord runs resume {record.run_id} "
            "--workspace DIR`."
        )
    request = Request(**read_json(folder / REQUEST_FILE))
    (folder / STOP_FILE).unlink(missing_ok=True)  # it has been heeded
    job = Job(
        Config.model_validate(request.config),
        files=request.files,
        out=folder,
        progress=progress,
        run_id=record.run_id,
        resume=True,
        launch=request.launch,
    )
    return _TRAINS[record.stage](job)


def stop_folder(folder: Path, *, by: str, at_once: bool = False) -> str:
    """End the run of `--out FOLDER` and say what happens; training writes a checkpoint first, unless `at_once`.

    Raises `InputError` where nothing is at work there, or `at_once` cannot be done from this machine.
    """
    at_work = _at_work(folder)
    if at_work is None:
        raise InputError(f"No process is at work on the run in {folder}: there is nothing to stop.")
    run = runs.Run(**read_json(folder / RUN_FILE))
    process, host = at_work
    gently = run.stage in _TRAINS and not at_once
    if host != socket.gethostname() and not gently:
        raise InputError(f"The run in {folder} is at work on {host}: stop it there.")
    write_json(folder / STOP_FILE, {"by": by, "at_once": at_once})
    if gently:
        return "It writes a checkpoint after this step, then ends."
    end_tree(process)
    stopped = replace(run, status="stopped", message=f"Stopped by {by}.", ended=now())
    write_json(folder / RUN_FILE, stopped.to_json())
    (folder / PROCESS_FILE).unlink(missing_ok=True)
    return "It has ended."


def _at_work(folder: Path) -> tuple[ProcessId, str] | None:
    """The process that works on a run outside any workspace, and its machine; None where it has ended.

    Of another machine it is not known, and taken to be at work.
    """
    if not (folder / PROCESS_FILE).is_file():
        return None
    record = read_json(folder / PROCESS_FILE)
    host, process = record.pop("host"), ProcessId(**record)
    return None if host == socket.gethostname() and not alive(process) else (process, host)
