"""Policies out of PPO's checkpoints, so that toxicity can be drawn against KL along a run.

A checkpoint holds the tensors that train, under the names that PEFT gives them; the run's own folder holds the
configuration of the adapter. Together they are an adapter like any other.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from alignment.errors import ModelError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRAINABLE_FILE = "trainable.safetensors"
_POLICY = ".default."  # the name of the policy's adapter on the trunk
_UP = 3  # folders between a checkpoint and its run


def checkpoints_of(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint below a run's folder that can be compared, first to last."""
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in folder.rglob("checkpoint-*")
        if path.name.rpartition("-")[2].isdecimal()
        and ((path / ADAPTER_CONFIG).is_file() or (path / TRAINABLE_FILE).is_file())
    ]
    return sorted(found)


def needs_adapter(folder: Path) -> bool:
    """Whether the folder is a checkpoint that `write_adapter` makes loadable."""
    return (folder / TRAINABLE_FILE).is_file() and not (folder / ADAPTER_CONFIG).is_file()


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: the nearest one above with an adapter.

    Raises `ModelError` where there is none: the run has not finished, or the checkpoint was moved.
    """
    for folder in list(checkpoint.resolve().parents)[:_UP]:
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise ModelError(
        f"The checkpoint {checkpoint} lies below no finished policy ({ADAPTER_CONFIG} is missing there). Let the run "
        "finish, or leave the checkpoint where it was made."
    )


def write_adapter(checkpoint: Path, out: Path) -> None:
    """Write the policy of a checkpoint to `out` as a PEFT adapter. Raises `ModelError` where it holds no policy."""
    from safetensors.numpy import load_file, save_file

    tensors = {
        name.replace(_POLICY, "."): tensor
        for name, tensor in load_file(checkpoint / TRAINABLE_FILE).items()
        if _POLICY in name
    }
    if not tensors:
        raise ModelError(f"The checkpoint {checkpoint} holds no policy adapter.")
    shutil.copy(run_of(checkpoint) / ADAPTER_CONFIG, out / ADAPTER_CONFIG)
    save_file(tensors, out / ADAPTER_WEIGHTS)
