"""What must hold in every PPO run, checked while it runs: it starts at the reference, and all that trains moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from alignment.errors import TrainingError
from alignment.models.distributed import whole

# How far log-probabilities of two equal passes may lie apart: rounding, times a few.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 0.1, torch.float16: 0.02}
# The same for passes with and without the shared lower trunk.
SAME_STATES = {kind: tolerance / 100 for kind, tolerance in TOLERANCE.items()}
# By then the gradient has come through a head and both factors of an adapter that all started at 0.
UPDATES_UNTIL_ALL_MOVE = 4


def check_start(apart: float, kl: float, tokens: int, dtype: torch.dtype) -> None:
    """Before the first update the policy is the reference: KL 0, and the ratio of a second pass is 1.

    `apart`: the largest difference of log-probabilities between two passes; `kl`: the largest KL of a completion of at
    most `tokens` tokens. Raises `TrainingError`.
    """
    tolerance = TOLERANCE[dtype]
    if apart > tolerance or kl > tolerance * tokens:
        raise TrainingError(
            f"Before the first update the policy should equal the reference, but log-probabilities are off by "
            f"{apart:.2g} and the KL is {kl:.2g}. Turn off dropout in the base model, or start from a fresh adapter."
        )


class GradientCheck:
    """Every trainable tensor has a gradient, and soon one that is not 0: one left out would never train, silently."""

    def __init__(self) -> None:
        self._still: set[str] | None = None  # tensors that have had no gradient but 0
        self._updates = self._tensors = 0

    @property
    def done(self) -> bool:
        """Whether every tensor has had its gradient."""
        return self._still is not None and not self._still

    def see(self, trains: Mapping[str, Any], counts: bool) -> None:
        """Look at the gradients of an update, before it is made. Raises `TrainingError` naming a tensor left out.

        `counts`: whether policy and value both learn in it. Before an update's last micro-batch a sharded model has no
        gradients to look at.
        """
        if self._still is None:
            missing = [name for name, parameter in trains.items() if parameter.grad is None]
            if missing:
                raise TrainingError(
                    f"{len(missing)} trainable tensors get no gradient, among them {missing[0]}. Under FSDP each head "
                    "must be a unit of its own; nothing was trained."
                )
            self._still = set(trains)
        # In one order everywhere: where the model is sharded, all processes put each gradient together.
        for name in sorted(self._still):
            gradient = trains[name].grad
            if gradient is not None and bool(whole(gradient).any()):
                self._still.discard(name)
        self._updates, self._tensors = self._updates + counts, len(trains)
        if self._still and self._updates > UPDATES_UNTIL_ALL_MOVE:
            raise TrainingError(
                f"After {UPDATES_UNTIL_ALL_MOVE} updates {len(self._still)} trainable tensors have had no gradient "
                f"but 0, among them {min(self._still)}. Leave out the layers that do not reach the loss with "
                "ppo.lora_target_modules."
            )

    def at_end(self) -> str | None:
        """A sentence where the run was too short to see every tensor move. Raises `TrainingError` where none did."""
        if not self._still:
            return None
        if len(self._still) == self._tensors:
            raise TrainingError(
                f"None of the {self._tensors} trainable tensors had a gradient but 0, so nothing was trained. Check "
                "that the reward tells completions apart and that ppo.learning_rate and ppo.vf_coef are not 0."
            )
        return (
            f"{len(self._still)} of {self._tensors} trainable tensors had no gradient but 0, among them "
            f"{min(self._still)}: the run was too short to tell whether they train. Raise ppo.max_iterations."
        )
