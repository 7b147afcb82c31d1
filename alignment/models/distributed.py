"""One training run on several processes: who this process is, and whole tensors out of sharded ones.

The launcher (`alignment.training.launch`) sets the environment that is read here; without it there is one process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from alignment.files import whole_folder


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes files and reports progress."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether FSDP was asked for: then the trainer places each process's shard, and nothing else places the model."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and "RANK" in os.environ


def enter() -> None:
    """Join the other processes, and make this process's accelerator the current one.

    Before anything is loaded: otherwise all would load onto the first accelerator.
    """
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def allow_fsdp_on_cpu() -> None:
    """Let accelerate shard on processors without an accelerator (gloo).

    accelerate 1.15 leaves MULTI_CPU out of the list of what it promotes to FSDP, and then ignores FSDP silently.
    """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__
    if getattr(original, "promotes_cpu", False):
        return

    def promoted(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    promoted.promotes_cpu = True  # pyright: ignore[reportFunctionMemberAccess]
    AcceleratorState.__init__ = promoted


def leave() -> None:
    """Wait for the other processes, and take the group of processes down."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or all of it where this process holds a shard. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Copy a whole tensor into `tensor`, or into the shard of it that this process holds."""
    if isinstance(tensor, DTensor):
        mesh, placements = tensor.device_mesh, tensor.placements
        values = distribute_tensor(
            values.to(tensor.device, tensor.dtype), mesh, placements, src_data_rank=None
        )
    tensor.copy_(values)


def whole_state(model: nn.Module, keep: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """Name -> whole tensor, on the CPU, of the parameters whose name `keep` accepts. Every process must call it."""
    return {
        name: whole(parameter.detach()).cpu()
        for name, parameter in model.named_parameters()
        if keep(name)
    }


def as_forward(model: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run as a forward pass of the sharded `model`; itself where the model is not sharded."""
    if not isinstance(model, FSDPModule):
        return function
    name = f"_forward_{function.__name__}"
    setattr(model, name, function)
    register_fsdp_forward_method(model, name)  # pyright: ignore[reportArgumentType]
    return getattr(model, name)


@contextlib.contextmanager
def main_folder(folder: Path) -> Iterator[Path]:
    """`whole_folder` in the main process; elsewhere a scratch folder that vanishes.

    Every process runs the same block, so that what it gathers is gathered by all, and one of them leaves files.
    """
    if is_main():
        with whole_folder(folder) as scratch:
            yield scratch
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
