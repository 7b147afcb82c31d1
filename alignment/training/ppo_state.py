"""What a PPO checkpoint holds beside the optimizer and the random states: the trainable tensors, and our own state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from alignment.errors import TrainingError
from alignment.files import read_json
from alignment.models.distributed import fill

TRAINABLE_FILE, STATE_FILE = "trainable.safetensors", "ppo_state.json"


def save_state(folder: Path, tensors: Mapping[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write the trainable tensors by name, and a JSON object."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(plain, folder / TRAINABLE_FILE)
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


@torch.no_grad()
def load_state(folder: Path, into: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Copy the saved tensors into those of the same names, and return the JSON object.

    Raises `TrainingError` where the names differ.
    """
    saved = load_file(folder / TRAINABLE_FILE)
    if saved.keys() != into.keys():
        raise TrainingError(
            f"The checkpoint {folder} holds other tensors than this run trains: it was made with other options, or by "
            "an older Concord. Resume with the options that the run was started with, or start a new run."
        )
    for name, tensor in into.items():
        fill(tensor, saved[name])
    return read_json(folder / STATE_FILE)
