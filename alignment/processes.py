"""Processes of runs: start one in a group of its own, tell whether it still lives, and end its whole tree.

A process id alone does not name a process, since ids are used again: it goes with the moment the process started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from alignment.files import disk_errors

START_TOLERANCE_SECONDS = 1.0
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process: its id, and when it started in seconds since 1970."""

    pid: int
    started: float


def this_process() -> ProcessId:
    """The calling process."""
    return ProcessId(os.getpid(), psutil.Process().create_time())


def start(
    command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> ProcessId:
    """Start `command` in `folder` as a session of its own, its output appended to `log`; it outlives the caller."""
    with disk_errors(log), log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ProcessId(process.pid, psutil.Process(process.pid).create_time())


def alive(process: ProcessId) -> bool:
    """Whether that very process is still at work. One that ended but was not waited for is not."""
    found = _find(process)
    if found is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        if found.status() != psutil.STATUS_ZOMBIE:
            return True
        with contextlib.suppress(ChildProcessError):  # a zombie may be our own child
            os.waitpid(process.pid, os.WNOHANG)
    return False


def end_tree(process: ProcessId, patience_seconds: float = 5.0) -> int:
    """End a process and all it started: SIGTERM, then SIGKILL to what is left. Returns how many there were.

    Its process group is asked too, so that a grandchild whose parent has gone is not left behind.
    """
    found = _find(process)
    tree = [] if found is None else [found, *_descendants(found)]
    tree += [other for other in _group(process) if other not in tree]
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal_number)
        _, left = psutil.wait_procs(tree, timeout=patience_seconds)
        if not left:
            break
    return len(tree)


def _find(process: ProcessId) -> psutil.Process | None:
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started) < START_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return None
    return found if same else None


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _group(process: ProcessId) -> list[psutil.Process]:
    """Members of the group that `process` leads, if it was started by `start`."""
    members = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            in_group = os.getpgid(other.pid) == process.pid and other.pid != os.getpid()
            if in_group and other.create_time() >= process.started - START_TOLERANCE_SECONDS:
                members.append(other)
    return members


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, of at most 16 KB; empty where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace")
    # A progress bar overwrites its line with carriage returns: only what it says last counts.
    shown = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])
