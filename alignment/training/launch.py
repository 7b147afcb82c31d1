"""`--fsdp N` and `--nproc N`: one training run on several processes, through accelerate's launcher.

The process that was asked to train writes a specification into the run's folder, starts the launcher, shows the
progress that the main worker reports, and reads the figures from a file. It alone knows the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from alignment import errors
from alignment.config import PPOTrainingConfig, RewardTrainingConfig
from alignment.errors import ConfigError, InputError, TrainingError
from alignment.files import disk_errors, read_json, write_json
from alignment.processes import ProcessId, end_tree, log_tail
from alignment.progress import Progress
from alignment.records import LabelerEvidence, PreferencePair, Prompt, PromptText
from alignment.training.worker import PROGRESS, RESULT, SPEC, log_file

CONFIGS = Path(__file__).resolve().parent / "accelerate"
LAUNCH_FOLDER = "launch"
WORKER = "alignment.training.worker"
_POLL_SECONDS, _PATIENCE_SECONDS, _JOIN_SECONDS = 0.1, 10.0, 600
# As torch's launcher reports the first process that failed.
_FAILED = re.compile(r"rank\s*:\s*(\d+) \(local_rank: \d+\)\s*\n\s*exitcode\s*:\s*(-?\d+)")


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run is spread: `processes` in all, by the accelerate configuration `config_file`."""

    processes: int
    config_file: Path
    machine_rank: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The accelerate configuration."""
        return _read_config(self.config_file)

    @property
    def machines(self) -> int:
        """The number of machines that train together."""
        return int(self.settings.get("num_machines", 1))


def launch_of(
    fsdp: int | None = None, nproc: int | None = None, config_file: str | Path | None = None
) -> Launch | None:
    """What the options ask for; None where training stays in this process.

    `fsdp` processes shard the model, `nproc` copy it; `config_file` is an accelerate configuration of one's own, whose
    number of processes these replace. Raises `ConfigError` on options that contradict each other.
    """
    if fsdp and nproc:
        raise ConfigError(
            "--fsdp and --nproc exclude each other: --fsdp N shards the model over N processes, --nproc N gives each "
            "the whole of it. Choose one."
        )
    processes = fsdp or nproc
    if config_file is None:
        if processes is None:
            return None
        return Launch(processes, CONFIGS / ("eight_gpus.yaml" if fsdp else "copies.yaml"))
    config_file = Path(config_file)
    kind = _read_config(config_file)["distributed_type"]
    if processes and bool(fsdp) != (kind == "FSDP"):
        raise ConfigError(
            f"{config_file} has distributed_type {kind}, which goes with {'--nproc' if fsdp else '--fsdp'}. Change "
            "the option or the file."
        )
    return launch_from(config_file, processes)


def launch_from(config_file: Path, processes: int | None = None, machine_rank: int = 0) -> Launch:
    """A launch by an accelerate configuration; `processes` replaces its number of them."""
    settings = _read_config(config_file)
    return Launch(processes or int(settings.get("num_processes", 1)), config_file, machine_rank)


def check_rollout(config: PPOTrainingConfig, processes: int) -> None:
    """`InputError` where a rollout cannot be dealt out evenly to the processes."""
    per_update = config.num_mini_batches * config.per_device_train_batch_size
    if config.batch_size % (per_update * processes):
        raise InputError(
            f"With {processes} processes ppo.batch_size must be a multiple of {per_update * processes} "
            "(num_mini_batches x per_device_train_batch_size x processes), counting the episodes of all of them; "
            f"it is {config.batch_size}. Change one of these."
        )


def ppo_spec(
    base: str,
    reward_model: Path | None,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    config: PPOTrainingConfig,
    launch: Launch,
    resume: bool = False,
    base_precision: str = "fp32",
) -> dict[str, Any]:
    """What the workers of a PPO run need to know. Raises `InputError` where a rollout cannot be dealt out evenly."""
    check_rollout(config, launch.processes)
    return {
        "stage": "ppo",
        "base": base,
        "reward_model": None if reward_model is None else str(reward_model),
        "prompts": [prompt.to_json() for prompt in prompts],
        "held_out": [prompt.to_json() for prompt in held_out],
        "config": config.model_dump(mode="json"),
        "resume": resume,
        "base_precision": base_precision,
    }


def reward_spec(
    base: str,
    train_pairs: Sequence[PreferencePair],
    held_out_pairs: Sequence[PreferencePair],
    config: RewardTrainingConfig,
    evidence: LabelerEvidence | None = None,
    tasks: Mapping[str, tuple[PromptText, Sequence[str]]] | None = None,
    resume: bool = False,
    base_precision: str = "fp32",
) -> dict[str, Any]:
    """What the workers of a reward run need to know, as for `reward.train_reward`."""
    return {
        "stage": "reward",
        "base": base,
        "pairs": [pair.to_json() for pair in train_pairs],
        "held_out": [pair.to_json() for pair in held_out_pairs],
        "config": config.model_dump(mode="json"),
        "evidence": evidence.to_json() if evidence else None,
        "tasks": dict(tasks or {}),
        "resume": resume,
        "base_precision": base_precision,
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as an accelerate configuration ({error})."
        ) from None
    if not isinstance(settings, dict) or "distributed_type" not in settings:
        raise ConfigError(
            f"{path} is no accelerate configuration: it lacks `distributed_type`. Copy one from {CONFIGS}."
        )
    return settings


def train(spec: dict[str, Any], folder: Path, launch: Launch, progress: Progress) -> dict[str, Any]:
    """Run the stage that `spec` describes on `launch.processes` processes and return its figures.

    Artefacts go to `folder`, what the processes print to `folder/launch`. Raises the `ConcordError` that a process
    raised, or `TrainingError` with the last lines of its log where one died. No process outlives the call.
    """
    inside = folder / LAUNCH_FOLDER
    with disk_errors(inside):
        inside.mkdir(parents=True, exist_ok=True)
    for old in (RESULT, PROGRESS, *(path.name for path in inside.glob("failure-*.json"))):
        (inside / old).unlink(missing_ok=True)
    write_json(inside / SPEC, spec)
    _start_and_wait(inside, launch, progress)
    if not (inside / RESULT).is_file():
        raise TrainingError(f"Training ended without a result. The logs are in {inside}.")
    return read_json(inside / RESULT)


def join(folder: Path, launch: Launch, progress: Progress) -> None:
    """Take part, with this machine's processes, in the run that another machine has started in `folder`.

    Waits until that machine has written what is to be done. Raises like `train`.
    """
    inside, started = folder / LAUNCH_FOLDER, time.monotonic()
    while not (inside / SPEC).is_file():
        if time.monotonic() - started > _JOIN_SECONDS:
            raise InputError(
                f"No run has been started in {folder} for {_JOIN_SECONDS // 60} minutes. Start it on the first machine "
                "with the same --out and --launch-config, and make sure that this machine sees that folder."
            )
        time.sleep(1)
    _start_and_wait(inside, launch, progress)


def _start_and_wait(inside: Path, launch: Launch, progress: Progress) -> None:
    command, log = _command(inside, launch), _launcher_log(inside, launch)
    with log.open("wb") as output, _stopped_by_sigterm():
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            _follow(launcher, inside / PROGRESS, progress)
        finally:
            _end(launcher)
    if launcher.returncode:
        raise _failure(inside, launcher.returncode, launch)


def _launcher_log(inside: Path, launch: Launch) -> Path:
    return inside / (
        f"launcher-{launch.machine_rank}.log" if launch.machine_rank else "launcher.log"
    )


def _command(inside: Path, launch: Launch) -> list[str]:
    options: dict[str, Any] = {
        "--config_file": launch.config_file,
        "--num_processes": launch.processes,
        "--machine_rank": launch.machine_rank,
        "--num_cpu_threads_per_process": _threads(launch.processes // launch.machines),
    }
    if launch.machines == 1:
        options["--main_process_port"] = free_port()
    elif launch.machine_rank == 0:
        check_port(int(launch.settings["main_process_port"]))
    flat = [str(part) for option in options.items() for part in option]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *flat]
    return [*launcher, "--module", WORKER, str(inside)]


def _threads(processes: int) -> int:
    given = os.environ.get("OMP_NUM_THREADS")
    return int(given) if given else max(1, (os.cpu_count() or 1) // max(processes, 1))


def _environment() -> dict[str, str]:
    import torch

    cpu = str(torch.accelerator.current_accelerator() is None).lower()
    # The folder that holds the package: workers import it also where it is not installed.
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "ACCELERATE_USE_CPU": cpu,
        "CONCORD_STARTER": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    """`InputError` where something else listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(
                f"Port {port} of this machine is in use ({error.strerror}), and the processes of the other machines "
                "would look for this run there. End what uses it, or set another main_process_port in the launch "
                "configuration of every machine."
            ) from None


def _follow(launcher: subprocess.Popen[bytes], path: Path, progress: Progress) -> None:
    """Pass on what the main worker reports, until the launcher ends."""
    read, ended = 0, False
    while not ended:
        ended = launcher.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(read)
                lines = file.read()
            complete = lines.rfind(b"\n") + 1
            read += complete
            for line in lines[:complete].splitlines():
                progress(*json.loads(line))
        if not ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(_POLL_SECONDS)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """End the launcher and everything it started: asked first, then killed."""
    if launcher.poll() is None:
        started = psutil.Process(launcher.pid).create_time()
        end_tree(ProcessId(launcher.pid, started), _PATIENCE_SECONDS)
    launcher.wait()


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """A SIGTERM becomes an exception, so that the workers are ended and the run is marked as failed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TrainingError(f"Training was stopped from outside ({signal.Signals(number).name}).")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(inside: Path, code: int, launch: Launch) -> Exception:
    """Why the run failed, as an error for the person who started it."""
    told = sorted((read_json(p) for p in inside.glob("failure-*.json")), key=lambda f: f["at"])
    if told and told[0]["kind"]:
        return getattr(errors, told[0]["kind"])(told[0]["message"])
    outer = _launcher_log(inside, launch)
    found = _FAILED.findall(outer.read_text(encoding="utf-8", errors="replace"))
    if not found:
        return TrainingError(
            f"The launcher ended with code {code} before a process of its own did. The end of its log, {outer}:\n"
            f"{log_tail(outer)}"
        )
    ended = [(int(rank), int(code)) for rank, code in found]
    # One that a signal ended is the cause; the others lose its connection, and may be seen first.
    killed = [one for one in ended if one[1] < 0 and one[1] != -signal.SIGTERM]
    rank, exit_code = (killed or ended)[-1]
    log = log_file(inside, rank) if log_file(inside, rank).exists() else outer
    return TrainingError(
        f"Process {rank} of {launch.processes} {_ending(exit_code)}, so the others were ended and the run was marked "
        f"failed. The end of its log, {log}:\n{log_tail(log)}"
    )


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = " (often: the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
