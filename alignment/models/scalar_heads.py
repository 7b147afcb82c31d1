"""What reads a number off the last hidden states: the score of the reward role, the value of the critic.

Each is a module of its own, so that FSDP can wrap it, and computes in float32 also where the rest is in bfloat16.
"""

from __future__ import annotations

import torch
from torch import nn


class ScalarHead(nn.Module):
    """A linear read-out."""

    def __init__(self, weight: torch.Tensor, bias: float = 0.0) -> None:
        """`weight`: [1, hidden]."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> scalar [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            read = self.read(hidden.float())
        return read.squeeze(-1).clone()  # no view: FSDP hangs its hooks on what a module returns

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> [..., 1]."""
        return nn.functional.linear(hidden, self.weight.float(), self.bias.float())


class ValueHead(ScalarHead):
    """A linear read-out plus what a hidden layer adds to it, W2 gelu(W1 h + b1), which starts at 0.

    The value of a clipped reward is no linear function of the states: see docs/decisions/0006-the-value-head.md.
    """

    def __init__(self, weight: torch.Tensor, bias: float = 0.0) -> None:
        """`weight`: [1, hidden], of the linear part."""
        super().__init__(weight, bias)
        size = weight.size(1)
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.outer.weight)

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> [..., 1]."""
        inner = nn.functional.linear(hidden, self.inner.weight.float(), self.inner.bias.float())
        added = nn.functional.linear(nn.functional.gelu(inner), self.outer.weight.float())
        return super().read(hidden) + added
