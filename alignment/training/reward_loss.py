"""The arithmetic of the reward model's loss, as pure functions.

For two completions of one prompt with scores r_i and r_j, d = r_i - r_j, and the probability p that i is preferred
(Bradley-Terry with a soft label; Ouyang et al. 2022, arXiv:2203.02155, eq. 1, is p = 1):

    loss = -[p log sigmoid(d - m) + (1 - p) log sigmoid(m - d)]

m is the margin (Touvron et al. 2023, arXiv:2307.09288, eq. 2), here `margin` (2 p - 1): none for a tie.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import logsigmoid


def pair_losses(
    difference: torch.Tensor, probability: torch.Tensor, margin: float = 0.0
) -> torch.Tensor:
    """Cross-entropy in nats of each pair, the shape of `difference`; `probability` is broadcast to it."""
    moved = difference - margin * (2 * probability - 1)
    return -(probability * logsigmoid(moved) + (1 - probability) * logsigmoid(-moved))


def ensemble_loss(
    scores: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    probability: torch.Tensor,
    weight: torch.Tensor,
    margin: float = 0.0,
) -> torch.Tensor:
    """The weighted sum over pairs of the heads' mean loss, a scalar; divide it by the pairs' total weight.

    `scores` [C, M]: of each completion by each head. `first`, `second` [N]: the completions of each pair.
    `probability` [N]: that first is preferred. `weight` [N, M]: of each pair for each head.
    """
    difference = scores[first] - scores[second]
    losses = pair_losses(difference, probability[:, None], margin)
    return (weight * losses).sum() / scores.size(-1)


def bootstrap_counts(prompts: int, heads: int, seed: int) -> np.ndarray:
    """How often each head sees each prompt, [prompts, heads]: a bootstrap sample per head, all ones for one head."""
    if heads == 1:
        return np.ones((prompts, 1))
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=heads).T.astype(float)
