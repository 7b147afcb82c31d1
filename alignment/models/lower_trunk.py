"""The layers below all adapters, computed once per rollout.

With adapters on the upper layers only, the lower ones are the same frozen base for every role and every epoch. While
kept states are in force, the first k layers return their input and layer k reads the kept states instead; what lies
around the layers (embeddings, masks, positions) stays the model's own. So it suits any decoder whose layers take and
return hidden states, and results are those of the whole model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


class LowerTrunk:
    """Keeps and puts in the hidden states [B, S, H] that enter layer `first` of `layers`."""

    def __init__(self, layers: nn.ModuleList, first: int) -> None:
        self.first = first
        self._states: torch.Tensor | None = None
        self._watching = False
        self._seen: torch.Tensor | None = None
        for layer in layers[:first]:
            layer.forward = self._skipping(layer.forward)
        layers[first].register_forward_pre_hook(self._enter, with_kwargs=True)

    def _skipping(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def forward_or_skip(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._states is not None:
                return hidden_states
            return forward(hidden_states, *args, **kwargs)

        return forward_or_skip

    def _enter(
        self, _: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict] | None:
        if self._watching:
            self._seen = args[0] if args else kwargs["hidden_states"]
        if self._states is None:
            return None
        if args:
            return (self._states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._states}

    @contextlib.contextmanager
    def put_in(self, states: torch.Tensor | None) -> Iterator[None]:
        """Until the block ends, start from `states` [B, S, H]; None runs the whole model."""
        self._states = states
        try:
            yield
        finally:
            self._states = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Gives a function that returns the states which entered layer `first` inside the block."""
        self._watching = True
        try:
            yield self._taken
        finally:
            self._watching, self._seen = False, None

    def _taken(self) -> torch.Tensor:
        assert self._seen is not None, "no pass was run"
        return self._seen.detach()
