"""Out of memory, said as what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from alignment.errors import TrainingError

# What the allocators of accelerators, of torch and of the system say.
_TOLD = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


@contextlib.contextmanager
def memory_errors(advice: Sequence[str]) -> Iterator[None]:
    """Turn out of memory into a `TrainingError` with `advice`, a list of what to set."""
    try:
        yield
    except Exception as error:
        told = str(error).lower()
        if isinstance(error, TrainingError) or not (
            isinstance(error, MemoryError) or any(part in told for part in _TOLD)
        ):
            raise
        raise TrainingError(
            f"The memory of this machine does not suffice. Start a new run with {'; or '.join(advice)}: a checkpoint "
            "goes on only with the options it was made with. `concord plan` says beforehand what fits."
        ) from error


def smaller_base(base_precision: str) -> list[str]:
    """What makes the frozen base itself smaller, as advice."""
    smaller = ["base_precision=bf16 (the frozen base in half the memory)"]
    return [*(smaller if base_precision == "fp32" else []), "--fsdp N (parts of it on N devices)"]
