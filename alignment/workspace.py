"""A workspace: the folder that holds one project's configuration, feedback and runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alignment.config import Config, Section
from alignment.errors import InputError, StoreError
from alignment.feedback import runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store, now
from alignment.files import disk_errors, read_json, write_json, write_text

CONFIG_FILE, STORE_FILE, RUNS_FOLDER, RUN_FILE = "concord.yaml", "feedback.db", "runs", "run.json"
LOCK_FILE = ".lock"
_RECORDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


@dataclass(frozen=True)
class Workspace:
    """An open workspace. Close it, or use it as a context manager."""

    folder: Path
    store: Store

    @classmethod
    def create(cls, folder: Path, config: Config) -> Workspace:
        """Make a new workspace; `concord.yaml` gives every option of `config` with its explanation.

        Raises `StoreError` where the folder already holds one: nothing is overwritten.
        """
        folder = Path(folder)
        if (folder / STORE_FILE).exists() or (folder / CONFIG_FILE).exists():
            raise StoreError(
                f"{folder} already holds a workspace. Choose another folder, or use that one."
            )
        with disk_errors(folder):
            (folder / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG_FILE, explained_yaml(config))
        return cls(folder, Store(folder / STORE_FILE, create=True))

    @classmethod
    def open(cls, folder: Path) -> Workspace:
        """Open an existing workspace; `StoreError` where there is none, or a newer one."""
        folder = Path(folder)
        if not (folder / STORE_FILE).exists():
            raise StoreError(
                f"{folder} is not a Concord workspace. Make one with `concord init {folder}`."
            )
        return cls(folder, Store(folder / STORE_FILE))

    @property
    def config_file(self) -> Path:
        return self.folder / CONFIG_FILE

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def explained_yaml(config: Config) -> str:
    """A configuration as YAML with a comment for every option."""
    lines = ["# Concord's configuration: every option of every stage, with what it means."]
    for name, info in Config.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            lines += ["", f"{name}:"]
            fields, plain = type(value).model_fields, value.model_dump(mode="json")
            lines += [_explained(key, plain[key], fields[key].description, "  ") for key in fields]
        else:
            lines += ["", _explained(name, value, info.description, "")]
    return "\n".join(lines) + "\n"


def _explained(key: str, value: Any, description: str | None, indent: str) -> str:
    return f"{indent}{key}: {json.dumps(value)}  # {description}"


@dataclass
class RunFolder:
    """A run under way: where its files go, and the figures it will be remembered by."""

    run: Run
    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return self.run.run_id


@contextlib.contextmanager
def recorded_run(
    stage: str,
    config: BaseModel,
    inputs: dict[str, Any],
    *,
    workspace: Workspace | None,
    out: Path | None,
) -> Iterator[RunFolder]:
    """Run a stage under record: `run.json` in its folder and, in a workspace, a row of the store.

    The folder is `out` where given, else one of its own under the workspace's `runs/`. An exception marks the run as
    failed with its reason and goes on. Raises `InputError` where `out` already holds a run.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{stage}-{stamp}-{secrets.token_hex(2)}"
    folder = _run_folder(run_id, workspace, out)
    run = Run(
        run_id,
        stage,
        config.model_dump(mode="json"),
        inputs=inputs,
        versions=versions(),
        folder=str(folder),
    )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _under_record(run, folder, workspace) as under_way:
        yield under_way


@contextlib.contextmanager
def resumed_run(run: Run, workspace: Workspace | None) -> Iterator[RunFolder]:
    """Go on with a run that was broken off, in its own folder and under its own id.

    Raises `InputError` where it has finished, or its folder is gone, or a process still works on it.
    """
    folder = Path(run.folder or "")
    if run.status == "finished":
        raise InputError(f"The run {run.run_id} has finished; there is nothing to resume.")
    if run.folder is None or not folder.is_dir():
        raise InputError(f"The folder of the run {run.run_id} is gone ({folder}). Start a new run.")
    going_on = replace(run, status="running", message=None, ended=None)
    with _under_record(going_on, folder, workspace) as under_way:
        yield under_way


def find_run(run_id: str, workspace: Workspace | None) -> Run:
    """A run by its id in the workspace, or by the folder that was its `--out`; `StoreError` where there is none."""
    record = Path(run_id) / RUN_FILE
    if record.is_file():
        return Run(**read_json(record))
    if workspace is None:
        raise StoreError(
            f"There is no run in {run_id!r}. Give the folder of a run (it holds {RUN_FILE}), or work in a workspace."
        )
    return runs.run(workspace.store, run_id)


@contextlib.contextmanager
def _under_record(run: Run, folder: Path, workspace: Workspace | None) -> Iterator[RunFolder]:
    under_way = RunFolder(run, folder)
    with _locked(folder, run.run_id):
        _keep(run, folder, workspace)
        try:
            yield under_way
        except BaseException as error:
            reason = str(error) or type(error).__name__
            with contextlib.suppress(
                Exception
            ):  # the reason itself goes on; a full disk must not hide it
                _keep(replace(run, status="failed", message=reason, ended=now()), folder, workspace)
            raise
        done = replace(run, status="finished", metrics=under_way.metrics, ended=now())
        _keep(done, folder, workspace)


@contextlib.contextmanager
def _locked(folder: Path, run_id: str) -> Iterator[None]:
    """Hold the run's lock, which the system lets go of however the process ends; one process works on a run."""
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise InputError(
                f"The run {run_id} is still going on in another process. Wait for it, or stop it with "
                f"`concord runs stop {run_id}`."
            ) from None
        yield


def _run_folder(run_id: str, workspace: Workspace | None, out: Path | None) -> Path:
    if out is not None:
        if (out / RUN_FILE).exists():
            raise InputError(
                f"{out} already holds a run. Choose another --out; nothing was overwritten."
            )
        return out
    if workspace is None:
        raise InputError(
            "Say where the results shall go: give --out DIR, or work in a workspace (`concord init`)."
        )
    return workspace.folder / RUNS_FOLDER / run_id


def _keep(run: Run, folder: Path, workspace: Workspace | None) -> None:
    write_json(folder / RUN_FILE, run.to_json())
    if workspace is not None:
        runs.save_run(workspace.store, run)


def versions() -> dict[str, str]:
    """The versions of the libraries that decide a run's figures."""
    found = {"concord": importlib.metadata.version("concord-rlhf")}
    return found | {name: importlib.metadata.version(name) for name in _RECORDED}
