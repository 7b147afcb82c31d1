"""What a plan is held against: memory, speed and bandwidth of one device, known by name or found on this machine."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache

import psutil
import torch

from alignment.errors import InputError, nearest

GIB = 2**30
# Memory that the driver reports (GiB), dense bf16 or fp16 products with float32 sums (1e12 per second) and memory
# bandwidth (1e9 bytes per second), from the makers' data sheets.
_KNOWN = {
    "h200": (140.4, 989, 4800),
    "h100": (79.6, 989, 3350),
    "a100-80gb": (80.0, 312, 2039),
    "a100-40gb": (40.0, 312, 1555),
    "l40s": (45.0, 362, 864),
    "l4": (22.5, 121, 300),
    "a10": (22.5, 125, 600),
    "v100-32gb": (32.0, 125, 900),
    "t4": (15.0, 65, 320),
    "rtx-4090": (24.0, 165, 1008),
    "rtx-3090": (24.0, 71, 936),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One device. `reserved`: what the driver, its libraries or the interpreter hold beside torch's tensors."""

    name: str
    memory: int  # bytes
    accelerator: bool
    flops: float | None  # multiplications and additions per second in large products
    bandwidth: float | None  # bytes per second from its memory
    reserved: int  # bytes

    @property
    def room(self) -> int:
        """Bytes that tensors may take."""
        return self.memory - self.reserved


# A CUDA context with cuBLAS takes 0.5 to 0.8 GiB, and the caching allocator loses a few per cent to fragments.
_RESERVED_ACCELERATOR = GIB
# An interpreter that has imported torch, transformers, TRL and PEFT.
_RESERVED_PROCESSOR = GIB


def machine(name: str | None) -> Machine:
    """A machine by name (`h100`), by its memory (`24GiB`), or this one (None).

    Raises `InputError` naming the known ones.
    """
    if name is None:
        return this_machine()
    key = name.lower().replace("_", "-").replace(" ", "-")
    if key in _KNOWN:
        memory, tera, giga = _KNOWN[key]
        return Machine(key, int(memory * GIB), True, tera * 1e12, giga * 1e9, _RESERVED_ACCELERATOR)
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b?", key)
    if size:
        return Machine(name, int(float(size[1]) * GIB), True, None, None, _RESERVED_ACCELERATOR)
    raise InputError(
        f"The machine {name!r} is not known{nearest(key, list(_KNOWN)) or ''}. Give its memory, such as 24GiB, or one "
        f"of {', '.join(_KNOWN)}; leave the option out for this machine."
    )


def this_machine() -> Machine:
    """The accelerator of this machine, or its processor with the memory that is free now; its speed is measured."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
        return Machine(name, memory, True, *_speed(device), _RESERVED_ACCELERATOR)
    free = psutil.virtual_memory().available
    name = "this machine's processor" if device.type == "cpu" else f"this machine ({device.type})"
    return Machine(
        name,
        free,
        device.type != "cpu",
        *_speed(device),
        _RESERVED_PROCESSOR,
    )


@lru_cache(maxsize=1)
def _measured_flops(device: torch.device) -> float:
    """The rate of one large matrix product, the best of three."""
    size, dtype = (1024, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    left = torch.ones(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best_seconds(lambda: left @ left, device)


@lru_cache(maxsize=1)
def _bandwidth(device: torch.device) -> float:
    """Bytes per second of a sum over a large array, the best of three."""
    array = torch.ones(2**25 if device.type == "cpu" else 2**28, device=device)
    return 4 * array.numel() / _best_seconds(array.sum, device)


def _best_seconds(run: object, device: torch.device) -> float:
    best = float("inf")
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        run()  # pyright: ignore[reportCallIssue]
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _speed(device: torch.device) -> tuple[float, float]:
    """Operations and bytes per second, measured once; what the measurement took is given back to the device."""
    speed = _measured_flops(device), _bandwidth(device)
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    return speed
