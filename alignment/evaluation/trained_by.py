"""Which scorers a policy was trained on, as its folder records it: their praise of it shows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.files import read_json

POLICY_FILE, REWARD_FILE, RUN_FILE = "policy.json", "reward.json", "run.json"
_UP = 3  # folders between a checkpoint, or the best policy, and its run
_KEYS = ("reward_model", "reward_scorer", "reward", "rewards", "scorer", "scorers", "labelled_by")


def training_scorers(folder: Path) -> set[str]:
    """Names of the rewards behind a policy: scorers, callables and folders, and what labelled a reward model's pairs.

    The record may be that of the run in which the policy lies. Nothing where the folder is no policy, or where its
    record cannot be read.
    """
    found = set(_names(record_of(folder / REWARD_FILE)))
    for record in (record_of(folder / POLICY_FILE), policy_record(folder) or {}):
        for name in _names(record):
            found.add(name)
            if Path(name).is_dir():
                found |= set(_names(record_of(Path(name) / REWARD_FILE)))
    return found


def policy_record(policy: Path) -> dict[str, Any] | None:
    """What PPO recorded with its configuration, in the policy's folder or in that of the run that it lies in.

    `policy.json`; of a run that has not finished, reward model and configuration of `run.json`.
    """
    for place in run_places(policy):
        if "config" in (record := record_of(place / POLICY_FILE)):
            return record
        run = record_of(place / RUN_FILE)
        if run.get("stage") == "ppo" and "config" in run:
            return {"reward_model": run["inputs"].get("reward_model"), "config": run["config"]}
    return None


def run_places(policy: Path) -> list[Path]:
    """A policy's folder and those above it that may be its run's; none for the id of a model on the hub."""
    if not policy.is_absolute() and not policy.is_dir():
        return []
    return [policy, *policy.resolve().parents[:_UP]]


def is_trainer(scorer: str, name: str, trainers: set[str]) -> bool:
    """Whether a scorer, as it was asked for and as it calls itself, is among `trainers`."""
    mine = {scorer, name, scorer.partition("#")[0], *_place(scorer.partition("#")[0])}
    theirs = {t.removeprefix("scorer:") for t in trainers}
    return bool(mine & theirs.union(*(_place(t) for t in theirs)))


def _place(name: str) -> set[str]:
    return {str(Path(name).resolve())} if Path(name).exists() else set()


def record_of(path: Path) -> dict[str, Any]:
    """What a file records; nothing where it cannot be read."""
    try:
        record = read_json(path) if path.is_file() else {}
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def _names(record: dict[str, Any]) -> list[str]:
    """The names under the keys that say what trained a model, at the top or in its configuration.

    A value is a name, or a list of names and of rewards as `ppo.rewards` holds them, each with its `name`.
    """
    names: list[Any] = []
    for part in (record, record.get("config")):
        for key in _KEYS if isinstance(part, dict) else ():
            value = part.get(key)  # pyright: ignore[reportOptionalMemberAccess]
            for one in value if isinstance(value, list) else [value]:
                names.append(one.get("name") if isinstance(one, dict) else one)
    return [name for name in names if isinstance(name, str) and name]
