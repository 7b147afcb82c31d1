"""How likely a causal LM finds completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence


@torch.no_grad()
def negative_log_likelihood(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    batch_size: int = 64,
) -> np.ndarray:
    """-log p(completion | prompt) in nats, summed over each completion's tokens; shape [n].

    An empty completion costs 0. Rows are padded on the right, so no position depends on another row.
    """
    device = next(model.parameters()).device
    costs: list[float] = []
    for start in range(0, len(prompt_ids), batch_size):
        prompts = prompt_ids[start : start + batch_size]
        completions = completion_ids[start : start + batch_size]
        rows = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
        targets = [
            torch.tensor([-100] * len(p) + list(c))
            for p, c in zip(prompts, completions, strict=True)
        ]
        ids = pad_sequence(rows, batch_first=True).to(device)
        labels = pad_sequence(targets, batch_first=True, padding_value=-100).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(ids.size(1), device=device) < lengths[:, None]).long()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        cost = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
        )
        costs += cost.sum(1).tolist()
    return np.array(costs)
