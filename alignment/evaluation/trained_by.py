"""Which scorers a policy was trained on, as its folder records it: their praise of it shows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.files import read_json

POLICY_FILE, REWARD_FILE = "policy.json", "reward.json"
_KEYS = ("reward_model", "reward_scorer", "reward", "rewards", "scorer", "scorers", "labelled_by")


def training_scorers(folder: Path) -> set[str]:
    """Names of the rewards behind a policy: scorers, callables and folders, and what labelled a reward model's pairs.

    Nothing where the folder is no policy, or where its record cannot be read.
    """
    found: set[str] = set()
    for file in (POLICY_FILE, REWARD_FILE):
        record = record_of(folder / file)
        for name in _names(record):
            found.add(name)
            if file == POLICY_FILE and Path(name).is_dir():
                found |= set(_names(record_of(Path(name) / REWARD_FILE)))
    return found


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
