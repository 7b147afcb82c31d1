"""Starting, stopping and resuming runs in processes of their own.

A run is asked for (`submit`), waits in the store's queue, and is started by `dispatch` as a process group of its own
that outlives whoever started it. Nobody needs to stay: a run that ends starts the next. `reap` notices the dead.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment import pipeline, processes
from alignment.base_name import check_base_name
from alignment.config import Config, load_config
from alignment.errors import ConfigError, InputError, StoreError, nearest
from alignment.feedback import run_queue, runs, snapshot
from alignment.feedback.run_queue import ACTIVE, ENDED, STAGES, Mark, Request
from alignment.feedback.runs import Run
from alignment.feedback.snapshot import Snapshot
from alignment.files import disk_errors, read_json, write_json
from alignment.pipeline import Job
from alignment.progress import Progress, silent
from alignment.training.launch import check_rollout, launch_of
from alignment.workspace import STOP_FILE, Workspace, new_run_id, run_folder, versions

LOG_FILE, PROGRESS_FILE, BIN_FOLDER = "run.log", "progress.json", "bin"
RECORDS = {  # what a run writes while it works
    "log": LOG_FILE,
    "metrics": "metrics.jsonl",
    "samples": "samples.jsonl",
    "warnings": "warnings.jsonl",
}
ROUND = ("consensus", "reward", "ppo", "evaluate")  # what `submit_round` puts into the queue
TRAINING = ("reward", "ppo")  # stages that can be spread over processes
BASED = ("sample", "reward", "ppo", "evaluate")  # stages that load the base model
BASE = ("base_model", "base_precision")
PROGRESS_SECONDS = 0.5
# What a stage reads, from which stage's run, and where in its folder.
_READS = {
    "reward": ("pairs", "consensus", "pairs.jsonl"),
    "ppo": ("reward_model", "reward", "."),
    "evaluate": ("policy", "ppo", "."),
}
_WORK: dict[str, Callable[[Job], dict[str, Any]]] = {
    "sample": pipeline.sample,
    "consensus": pipeline.consensus,
    "reward": pipeline.train_reward,
    "ppo": pipeline.train_ppo,
    "evaluate": pipeline.evaluate_toxicity,
}


def submit(
    workspace: Workspace,
    stage: str,
    config: Config,
    *,
    by: str,
    files: Mapping[str, str] | None = None,
    launch: Mapping[str, Any] | None = None,
    after: Sequence[str] = (),
) -> str:
    """Put a run into the queue and return its id. What it reads is settled now: the newest run of the stage before, or
    the one in `after`; for a consensus the rankings as they stand, which are kept in the run's folder.

    Raises `InputError` on an unknown stage, one that cannot be launched so, a base that is none, where the stage before
    has not run, or where there are no rankings to combine.
    """
    _check(workspace, stage, config, launch or {})
    settled = _settled(workspace, stage, config, files or {}, after)
    run_id = new_run_id(stage)
    folder = run_folder(run_id, workspace, None)
    frozen = _frozen(workspace, config, settled) if stage == "consensus" else None
    with disk_errors(folder):
        folder.mkdir(parents=True)
    if frozen is not None:
        snapshot.write(frozen, folder)
        settled["snapshot"] = str(folder.resolve())
    section = getattr(config, stage).model_dump(mode="json")
    run = Run(run_id, stage, section, versions=versions(), folder=str(folder))
    request = Request(
        run_id,
        stage,
        config.model_dump(mode="json"),
        settled,
        dict(launch or {}),
        tuple(after),
        created_by=by,
    )
    run_queue.enqueue(workspace.store, run, request)
    return run_id


def _frozen(workspace: Workspace, config: Config, files: Mapping[str, str]) -> Snapshot | None:
    """The rankings that a consensus will combine: those of now, or those of the run that it does once more.

    None where it was asked to read files of its own.
    """
    if "rankings" in files or "gold" in files:
        return None
    found = (
        snapshot.read(Path(files["snapshot"]))
        if "snapshot" in files
        else snapshot.take(workspace.store)
    )
    snapshot.counting(found.rankings, config.consensus.labelers)
    return found


def submit_round(
    workspace: Workspace, config: Config, *, by: str, launch: Mapping[str, Any] | None = None
) -> list[str]:
    """The whole round on today's rankings: consensus, reward model, PPO, evaluation, each after the one before.

    `launch` is for the two that train.
    """
    spread = {stage: launch or {} if stage in TRAINING else {} for stage in ROUND}
    for stage in ROUND:
        _check(workspace, stage, config, spread[stage])
    chain: list[str] = []
    for stage in ROUND:
        chain.append(
            submit(workspace, stage, config, by=by, launch=spread[stage], after=chain[-1:])
        )
    return chain


def preview(
    workspace: Workspace,
    stage: str,
    config: Config,
    source: str | None,
    launch: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `submit` would put into the queue: the stage's configuration, what it reads, and where it differs from the
    stage's last run. Raises as `submit` does."""
    _check(workspace, stage, config, launch or {})
    last_run, changed = differences(workspace, stage, config)
    return {
        "stage": stage,
        "config": getattr(config, stage).model_dump(mode="json"),
        "reads": _settled(workspace, stage, config, reading(workspace, stage, source)),
        "last_run": last_run,
        "differences": changed,
    }


def differences(
    workspace: Workspace, stage: str, config: Config
) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """The stage's last run, and where base and section differ from its own: key -> `before` and `now`."""
    last = next(iter(runs.runs(workspace.store, stage)), None)
    if last is None:
        return None, {}
    before = options_of(workspace, last)
    base = {key: getattr(config, key) for key in BASE} if stage in BASED else {}
    now = {**base, **getattr(config, stage).model_dump(mode="json")}
    return last.run_id, {
        key: {"before": before[key], "now": value}
        for key, value in now.items()
        if key in before and before[key] != value
    }


def _check(workspace: Workspace, stage: str, config: Config, launch: Mapping[str, Any]) -> None:
    if stage not in STAGES:
        raise InputError(
            f"There is no stage {stage!r}{nearest(stage, list(STAGES)) or ''}. Choose one of "
            f"{', '.join(STAGES)}, or round."
        )
    if launch and stage not in TRAINING:
        raise InputError(f"Only training runs on several processes, not {stage}: leave that out.")
    if stage in BASED:
        check_base_name(config.base_model, workspace.folder)
    spread = launch_of(**launch)
    if stage == "ppo":
        check_rollout(config.ppo, spread.processes if spread else 1)


def _settled(
    workspace: Workspace,
    stage: str,
    config: Config,
    files: Mapping[str, str],
    after: Sequence[str] = (),
) -> dict[str, str]:
    """`files`, and what the stage reads from the run before where that is not among them."""
    reads = stage in _READS and (stage != "ppo" or config.ppo.uses_reward_model)
    newest = reads and _READS[stage][0] not in files
    return {**files, **(_newest_input(workspace, stage, after) if newest else {})}


def _newest_input(workspace: Workspace, stage: str, after: Sequence[str]) -> dict[str, str]:
    """The option that names what the stage reads, as it is now."""
    option, source, name = _READS[stage]
    candidates = [runs.run(workspace.store, run_id) for run_id in after]
    found = next((run for run in candidates if run.stage == source), None)
    found = found or run_queue.latest_run(workspace.store, source)
    if found is None or found.folder is None:
        raise InputError(
            f"The stage {stage} reads what {source} wrote, and no {source} run has finished. Start that first, or the "
            "whole round."
        )
    return {option: str((Path(found.folder) / name).resolve())}


def source_stage(stage: str) -> str | None:
    """The stage whose output `stage` reads, or None."""
    return _READS[stage][1] if stage in _READS else None


def reading(workspace: Workspace, stage: str, run_id: str | None) -> dict[str, str]:
    """The option by which `stage` reads the output of that run; nothing where no run is given.

    Raises `InputError` where the run is of another stage, or not finished.
    """
    if run_id is None:
        return {}
    run, source = runs.run(workspace.store, run_id), source_stage(stage)
    if source is None:
        raise InputError(f"The stage {stage} reads no earlier run: leave the source out.")
    if run_id in run_queue.deleted(workspace.store):
        raise InputError(
            f"The run {run_id!r} is in the bin. `concord runs restore {run_id}` brings it back."
        )
    if run.stage != source or run.status != "finished" or run.folder is None:
        raise InputError(
            f"The stage {stage} reads a finished {source} run; {run_id!r} is a {run.stage} run, {run.status}."
        )
    option, _, name = _READS[stage]
    return {option: str((Path(run.folder) / name).resolve())}


def dispatch(workspace: Workspace, most: int = 1) -> list[str]:
    """Mark the dead, then start queued runs while fewer than `most` are active; returns the ids of those started."""
    reap(workspace)
    started = []
    while (run_id := run_queue.claim_next(workspace.store, most)) is not None:
        folder = Path(runs.run(workspace.store, run_id).folder or "")
        (folder / STOP_FILE).unlink(missing_ok=True)
        command = [sys.executable, "-m", "alignment.cli", "runs", "execute", run_id]
        try:
            process = processes.start(
                [*command, "--workspace", str(workspace.folder.resolve()), "--most", str(most)],
                folder / LOG_FILE,
                workspace.folder,
                {"PYTHONUNBUFFERED": "1"},
            )
        except Exception as error:
            run_queue.end(workspace.store, run_id, "failed", f"It could not be started: {error}")
            raise
        run_queue.set_process(workspace.store, run_id, process)
        started.append(run_id)
    return started


def execute(
    workspace: Workspace, run_id: str, most: int = 1, log: Progress = silent
) -> dict[str, Any]:
    """Do what the run was asked, in this process; then start whatever waits next. `log` is told the progress too."""
    request = run_queue.request_of(workspace.store, run_id)
    if request is None:
        raise StoreError(f"The run {run_id!r} was never asked for. `concord runs start` asks.")
    run_queue.set_process(workspace.store, run_id, processes.this_process())
    folder = Path(runs.run(workspace.store, run_id).folder or "")
    job = Job(
        Config.model_validate(request.config),
        workspace,
        request.files,
        folder,
        ProgressFile(folder / PROGRESS_FILE, log),
        run_id,
        resume=request.resume,
        by=request.created_by,
        launch=request.launch,
    )
    try:
        return _WORK[request.stage](job)
    except BaseException as error:
        run_queue.end(workspace.store, run_id, "failed", str(error) or type(error).__name__)
        raise
    finally:
        with contextlib.suppress(Exception):  # the outcome of this run does not depend on the next
            dispatch(workspace, most)


class ProgressFile:
    """A `Progress` that writes where a run is to a file, twice a second at most, and passes it on to another."""

    def __init__(self, path: Path, also: Progress = silent) -> None:
        self.path, self.also = path, also
        self._label, self._began, self._first, self._written = "", 0.0, 0, 0.0

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        self.also(label, done, total, note)
        moment = time.time()
        if label != self._label:
            self._label, self._began, self._first = label, moment, done
        elif moment - self._written < PROGRESS_SECONDS and done < total:
            return
        self._written = moment
        spent, made = moment - self._began, done - self._first  # a resumed run begins in the middle
        left = spent / made * (total - done) if made and spent > 0 else None
        row = {"label": label, "done": done, "total": total, "note": note, "updated": moment}
        write_json(self.path, {**row, "seconds_left": None if left is None else round(left, 1)})


def progress_of(run: Run) -> dict[str, Any] | None:
    """What the run last said about how far it is; None where it has said nothing."""
    path = Path(run.folder or "") / PROGRESS_FILE
    return read_json(path) if run.folder and path.is_file() else None


def reap(workspace: Workspace) -> list[str]:
    """Mark runs whose process is gone: stopped where somebody asked for it, failed otherwise, with the log's end."""
    marked = []
    for run_id, process in run_queue.processes(workspace.store).items():
        if processes.alive(process):
            continue
        folder = Path(runs.run(workspace.store, run_id).folder or "")
        status, message = "failed", _epitaph(folder)
        if (folder / STOP_FILE).is_file():
            status, message = "stopped", _who_stopped(folder)
        if run_queue.end(workspace.store, run_id, status, message):
            marked.append(run_id)
    return marked


def _epitaph(folder: Path) -> str:
    """Why a process may be gone that said nothing, with the end of its log."""
    tail = processes.log_tail(folder / LOG_FILE)
    reason = "The process ended without a word: it was killed, ran out of memory, or the machine was restarted."
    return f"{reason} The last lines of its log:\n{tail}" if tail else reason


def _who_stopped(folder: Path) -> str:
    """The name in a stop file, in a sentence."""
    try:
        by = json.loads((folder / STOP_FILE).read_text(encoding="utf-8")).get("by")
    except (OSError, ValueError, AttributeError):
        by = None
    return f"Stopped by {by}." if by else "Stopped by hand."


def stop(workspace: Workspace, run_id: str, *, by: str, at_once: bool = False) -> str:
    """End a run and say what happens. Training writes a checkpoint first, unless `at_once`; other stages just end.

    Raises `StoreError` where the run is not active.
    """
    reap(workspace)
    run = runs.run(workspace.store, run_id)
    if run.status == "queued":
        run_queue.end(workspace.store, run_id, "stopped", f"Taken out of the queue by {by}.")
        return "It was taken out of the queue."
    if run.status not in ACTIVE or run.folder is None:
        raise StoreError(f"The run {run_id!r} is {run.status}: there is nothing to stop.")
    write_json(Path(run.folder) / STOP_FILE, {"by": by, "at_once": at_once})
    if run.stage in TRAINING and not at_once:
        return "It writes a checkpoint after this step, then ends."
    process = run_queue.processes(workspace.store).get(run_id)
    if process is not None:
        processes.end_tree(process)
    run_queue.end(workspace.store, run_id, "stopped", f"Stopped by {by}.")
    return "It has ended."


def resume(workspace: Workspace, run_id: str, *, by: str) -> None:
    """Put a stopped or failed training run back into the queue; it goes on from its last whole checkpoint."""
    run = runs.run(workspace.store, run_id)
    if run.stage not in TRAINING:
        raise InputError(
            f"A run of the stage {run.stage} keeps no checkpoints. To do it again, clone it: "
            f"`concord runs clone {run_id}`."
        )
    run_queue.requeue(workspace.store, run_id, by)


def clone(workspace: Workspace, run_id: str, assignments: Sequence[str], *, by: str) -> str:
    """Ask for the same once more, with `key=value` changes of the configuration; returns the new run's id.

    It reads what the run read: a consensus combines the same rankings, whatever came in since.
    """
    request = run_queue.request_of(workspace.store, run_id)
    if request is None:
        raise StoreError(f"What the run {run_id!r} was asked to do is not on record.")
    config = changed(Config.model_validate(request.config), assignments, request.stage)
    files, folder = request.files, Path(runs.run(workspace.store, run_id).folder or "")
    if request.stage == "consensus" and snapshot.is_in(folder):
        files = {"snapshot": str(folder)}
    return submit(workspace, request.stage, config, by=by, files=files, launch=request.launch)


def changed(config: Config, assignments: Sequence[str], section: str | None) -> Config:
    """`config` with `key=value` assignments; raises `ConfigError` as `load_config` does."""
    given = load_config(None, list(assignments), section).model_dump(exclude_unset=True)
    tree = config.model_dump()
    for key, value in given.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    try:
        return Config.model_validate(tree)
    except ValueError as error:
        raise ConfigError(
            f"These changes do not fit the rest of the configuration: {error}"
        ) from None


def delete(workspace: Workspace, run_id: str, *, by: str) -> Path:
    """Move a run's folder to the workspace's bin and hide the run; returns where it lies. The record stays.

    Raises `StoreError` while the run is waiting or active, or where another run reads from it.
    """
    run = runs.run(workspace.store, run_id)
    if run.status not in ENDED:
        raise StoreError(f"The run {run_id!r} is {run.status}. Stop it before you delete it.")
    if run_id in run_queue.deleted(workspace.store):
        raise StoreError(f"The run {run_id!r} is deleted already.")
    folder, target = Path(run.folder or ""), workspace.folder / BIN_FOLDER / run_id
    _check_unread(workspace, run_id, folder)
    run_queue.add_mark(workspace.store, Mark(run_id, "delete", "", by))
    if folder.is_dir():
        with disk_errors(target):
            target.parent.mkdir(exist_ok=True)
            folder.replace(target)
    return target


def _check_unread(workspace: Workspace, run_id: str, folder: Path) -> None:
    """`StoreError` where a run that waits or works needs this run's files."""
    for other in runs.runs(workspace.store):
        request = (
            None if other.status in ENDED else run_queue.request_of(workspace.store, other.run_id)
        )
        needs = request is not None and any(
            Path(path).is_relative_to(folder.resolve()) for path in request.files.values()
        )
        if needs:
            raise StoreError(
                f"The run {other.run_id!r} ({other.status}) reads what {run_id!r} wrote. Stop that one first."
            )


def restore(workspace: Workspace, run_id: str, *, by: str) -> None:
    """Bring a deleted run back from the bin."""
    if run_id not in run_queue.deleted(workspace.store):
        raise StoreError(f"The run {run_id!r} is not deleted.")
    run, kept = runs.run(workspace.store, run_id), workspace.folder / BIN_FOLDER / run_id
    if kept.is_dir() and run.folder:
        kept.replace(run.folder)
    run_queue.add_mark(workspace.store, Mark(run_id, "restore", "", by))


def promote(
    workspace: Workspace, run_id: str, *, by: str, comment: str = "", best: bool = False
) -> None:
    """Make the policy of a finished PPO run the current one: the next round samples from it.

    It is the last one, or with `best` the one that did best on the held-out prompts.
    """
    run = runs.run(workspace.store, run_id)
    if run.stage != "ppo" or run.status != "finished":
        raise InputError(
            f"Only a finished PPO run has a policy to promote; {run_id!r} is a {run.stage} run, {run.status}."
        )
    if best:
        pipeline.best_policy(Path(run.folder or ""))
    kind = "promote-best" if best else "promote"
    run_queue.add_mark(workspace.store, Mark(run_id, kind, comment, by))


def options_of(workspace: Workspace, run: Run) -> dict[str, Any]:
    """The configuration of a run: its stage's options and, where it loads one, the base model."""
    request = run_queue.request_of(workspace.store, run.run_id) if run.stage in BASED else None
    base = {} if request is None else {key: request.config.get(key) for key in BASE}
    return {**base, **run.config}


def new_config(workspace: Workspace, assignments: Sequence[str], section: str | None) -> Config:
    """The workspace's configuration with `key=value` assignments."""
    files = [workspace.config_file] if workspace.config_file.exists() else []
    return load_config(files, list(assignments), section)
