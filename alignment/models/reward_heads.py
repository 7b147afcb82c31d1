"""The reward model's ensemble of scalar heads: their mean is the score, their spread says how sure it is.

A mean of linear heads is a linear head, so the score needs no more than one of them: it is saved as the plain `score`
layer, and the single heads lie beside it. Each head learns from its own bootstrap sample of the prompts
(Lakshminarayanan et al. 2017, arXiv:1612.01474, with a shared trunk; Coste et al. 2024, arXiv:2310.02743, for reward
models).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

HEADS_FILE = "heads.safetensors"
SD_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
KNOWN_SHARE = 0.95  # of the training completions lie inside the region that the model knows
INITIAL_STD = 0.02  # that of transformers' own classification heads


class EnsembleHead(nn.Module):
    """M linear read-outs without bias, in float32. A module of its own, so that FSDP can wrap it."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, hidden_size).normal_(0.0, INITIAL_STD))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> scores [..., M]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())


def save_heads(folder: Path, weight: torch.Tensor) -> None:
    """Write the single heads, weight [M, H], beside the adapter."""
    save_file({"weight": weight.detach().float().cpu().contiguous()}, str(folder / HEADS_FILE))


def load_heads(folder: Path) -> torch.Tensor | None:
    """The single heads [M, H], or None where the reward model has only one."""
    path = Path(folder) / HEADS_FILE
    return load_file(str(path))["weight"] if path.is_file() else None


def deviation(scores: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the heads: [..., M] -> [...]."""
    return scores.std(dim=-1, unbiased=True)


def sd_quantiles(deviations: np.ndarray) -> dict[str, float]:
    """Quantiles of the score's standard deviation on the training completions, by level: what PPO is held against."""
    return {str(q): float(np.quantile(deviations, q)) for q in SD_QUANTILES}


def share_unknown(deviations: np.ndarray, quantiles: Mapping[str, float]) -> float:
    """Share of completions whose deviation lies beyond what 95% of the training completions have. 0.05 is normal."""
    return float(np.mean(np.asarray(deviations) > quantiles[str(KNOWN_SHARE)]))


def region_warning(
    deviations: np.ndarray, quantiles: Mapping[str, float], tolerated: float = 0.25
) -> str | None:
    """A sentence where more than `tolerated` of the completions lie outside the region that the reward model knows."""
    share = share_unknown(deviations, quantiles)
    if share <= tolerated:
        return None
    return (
        f"The policy leaves the region that the reward model knows: for {share:.0%} of its completions the heads "
        f"disagree more than for all but {1 - KNOWN_SHARE:.0%} of those that labelers ranked. Stop here, or have "
        "completions of this policy ranked and train the reward model again."
    )
