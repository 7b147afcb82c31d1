"""What is known of the rewards behind a policy: the trust figures of its reward models, and what else rewarded it.

An evaluation keeps them as `reward_model.json`, so that its reports hold them also when the reward model is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.evaluation.trained_by import REWARD_FILE, policy_record
from alignment.files import read_json

EVIDENCE_FILE, TRUST_FILE = "reward_model.json", "trust.json"


def evidence_behind(policy: Path) -> dict[str, Any] | None:
    """The evidence of the policy in a folder; None where it is none that PPO trained.

    `models`: `name`, `trust` (of `trust.json`) and `result` (of `reward.json`) of each reward model. `notes`: sentences
    on what else rewarded it, and on what is not known.
    """
    record = policy_record(policy)
    if record is None:
        return None
    own = record.get("reward_model")
    models, notes = [], []
    for term in record["config"].get("rewards") or [{"kind": "reward-model"}]:
        kind = term["kind"]
        place = own if kind == "reward-model" else term["name"] if kind == "model" else None
        if kind == "fluency":
            notes.append(
                "PPO was rewarded for what the base finds likely, which lowers perplexity."
            )
        elif place is None:
            notes.append(
                f"PPO was rewarded by the {kind} {term['name']}, which has no trust figures."
            )
        elif (Path(place) / TRUST_FILE).is_file():
            folder = Path(place)
            trust, result = (read_json(folder / name) for name in (TRUST_FILE, REWARD_FILE))
            models.append({"name": folder.name, "trust": trust, "result": result})
        else:
            notes.append(
                f"The reward model {Path(place).name} has no trust figures: Concord did not train it, or its folder is "
                "gone."
            )
    if not models:
        notes.insert(0, "No reward model was trained for this policy, as far as is known.")
    return {"models": models, "notes": notes}


def reward_folder(policy: Path) -> Path | None:
    """The folder of the reward model that PPO's own reward role was."""
    place = (policy_record(policy) or {}).get("reward_model")
    return Path(place).resolve() if place else None
