"""A workspace: the folder that holds one project's configuration, feedback and runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alignment.config import Config, Section
from alignment.errors import InputError, StoreError
from alignment.feedback import run_queue, runs
from alignment.feedback.run_queue import Request
from alignment.feedback.runs import Run
from alignment.feedback.store import Store, now
from alignment.files import disk_errors, write_json, write_text
from alignment.processes import this_process

CONFIG_FILE, STORE_FILE, RUNS_FOLDER, RUN_FILE = "concord.yaml", "feedback.db", "runs", "run.json"
STOP_FILE = "stop"  # somebody asks the run in this folder to end
REQUEST_FILE = "request.json"  # what a run outside any workspace was asked to do
PROCESS_FILE = "process.json"  # of a run outside any workspace, while it is at work
BEST_FOLDER = "best"  # of a PPO run: the policy that did best on the held-out prompts
_RECORDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


@dataclass(frozen=True)
class Workspace:
    """An open workspace. Close it, or use it as a context manager. `folder` is absolute."""

    folder: Path
    store: Store

    @classmethod
    def create(cls, folder: Path, config: Config) -> Workspace:
        """Make a new workspace; `concord.yaml` gives every option of `config` with its explanation.

        Raises `StoreError` where the folder already holds one: nothing is overwritten.
        """
        folder = Path(folder).resolve()
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
        """Open an existing workspace, wherever it was moved to; `StoreError` where there is none, or a newer one."""
        folder = Path(folder).resolve()  # the processes of its runs work elsewhere
        if not (folder / STORE_FILE).exists():
            raise StoreError(
                f"{folder} is not a Concord workspace. Make one with `concord init {folder}`."
            )
        store = Store(folder / STORE_FILE)
        runs.relocate(store, folder)
        return cls(folder, store)

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
    workspace: Workspace | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return self.run.run_id

    def keep(self, **figures: Any) -> None:
        """Put figures on record now: they stay, however the run ends."""
        self.metrics |= figures
        write_json(self.folder / RUN_FILE, replace(self.run, metrics=self.metrics).to_json())
        if self.workspace is not None:
            runs.keep_metrics(self.workspace.store, self.run_id, self.metrics)


@contextlib.contextmanager
def recorded_run(
    stage: str,
    config: BaseModel,
    inputs: dict[str, Any],
    *,
    workspace: Workspace | None,
    out: Path | None,
    run_id: str | None = None,
    request: Request | None = None,
) -> Iterator[RunFolder]:
    """Run a stage under record: `run.json` in its folder and, in a workspace, a row of the store.

    The folder is `out` where given, else one of its own under the workspace's `runs/`. `run_id`: a run that is known
    already, which starts or goes on now. `request`: what was asked for, kept in the store, or outside any workspace in
    the folder, so that the run can be resumed or cloned. An exception marks the run as failed with its reason and goes
    on; a run that was asked to end is marked stopped. Raises `InputError` where `out` already holds a run.
    """
    known = run_id is not None
    run_id = run_id or new_run_id(stage)
    folder = (out if known and out is not None else run_folder(run_id, workspace, out)).resolve()
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
    under_way = RunFolder(run, folder, workspace)
    _keep(run, folder, workspace)
    if request is not None and not known:
        _keep_request(replace(request, run_id=run_id), folder, workspace)
    if workspace is not None:
        run_queue.set_process(workspace.store, run_id, this_process())
    else:
        here = {**asdict(this_process()), "host": socket.gethostname()}
        write_json(folder / PROCESS_FILE, here)
    try:
        yield under_way
    except BaseException as error:
        by_hand = isinstance(error, KeyboardInterrupt)
        status = "stopped" if by_hand else "failed"
        reason = "Stopped from the keyboard." if by_hand else str(error) or type(error).__name__
        with contextlib.suppress(
            Exception
        ):  # the reason itself goes on; a full disk must not hide it
            (folder / PROCESS_FILE).unlink(missing_ok=True)
            ended = replace(run, status=status, message=reason, ended=now())
            _keep(replace(ended, metrics=under_way.metrics), folder, workspace)
        raise
    (folder / PROCESS_FILE).unlink(missing_ok=True)
    status = "stopped" if (folder / STOP_FILE).exists() else "finished"
    _keep(replace(run, status=status, metrics=under_way.metrics, ended=now()), folder, workspace)


def new_run_id(stage: str) -> str:
    """An id that tells stage and time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stage}-{stamp}-{secrets.token_hex(3)}"


def run_folder(run_id: str, workspace: Workspace | None, out: Path | None) -> Path:
    """Where the files of a run go: `out`, or a folder of the workspace.

    Raises `InputError` where neither is given, or `out` holds a run or anything else already.
    """
    if out is not None:
        if (out / RUN_FILE).exists():
            raise InputError(
                f"{out} already holds a run. Choose another --out; nothing was overwritten. To go on with a training, "
                f"`concord runs resume {out}`."
            )
        if out.is_dir() and any(map(_counts, out.iterdir())):
            raise InputError(
                f"{out} is not empty, and a run writes a folder of its own. Choose another --out; nothing was "
                "overwritten."
            )
        return out
    if workspace is None:
        raise InputError(
            "Say where the results shall go: give --out DIR, or work in a workspace (`concord init`)."
        )
    return workspace.folder / RUNS_FOLDER / run_id


def _counts(path: Path) -> bool:
    """Whether a file makes its folder one that is in use: neither hidden, nor a stop file, nor of a fresh volume."""
    return not path.name.startswith(".") and path.name not in (STOP_FILE, "lost+found")


def _keep(run: Run, folder: Path, workspace: Workspace | None) -> None:
    write_json(folder / RUN_FILE, run.to_json())
    if workspace is not None:
        runs.save_run(workspace.store, run)


def _keep_request(request: Request, folder: Path, workspace: Workspace | None) -> None:
    if workspace is None:
        write_json(folder / REQUEST_FILE, asdict(request))
    else:
        run_queue.keep_request(workspace.store, request)


def versions() -> dict[str, str]:
    """The versions of the libraries that decide a run's figures."""
    found = {"concord": importlib.metadata.version("concord-rlhf")}
    return found | {name: importlib.metadata.version(name) for name in _RECORDED}
