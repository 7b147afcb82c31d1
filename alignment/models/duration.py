"""Roughly how long a stage takes: floating-point operations over the speed of the device, and bytes over its bandwidth.

An estimate for the order of magnitude (a factor of two either way is normal): it knows nothing of communication between
devices, of loading, nor of small batches that leave a device idle. Counted as Kaplan et al. 2020 (arXiv:2001.08361) do,
2 operations per parameter and token forward, the gradient of activations as much again, that of weights once more, and
attention on top.
"""

from __future__ import annotations

from alignment.models.machines import Machine
from alignment.models.memory import Setting, weight_bytes
from alignment.models.shapes import ModelShape

# Shares of the peak that training and generation of language models usually reach.
_USE_OF_FLOPS, _USE_OF_BANDWIDTH = 0.4, 0.5
# Eager generation starts some dozen kernels per layer and token from Python.
_SECONDS_PER_LAYER_AND_TOKEN = 0.5e-3


def forward_flops(shape: ModelShape, tokens: int, length: int) -> float:
    """Of one forward pass of the trunk: products with weights, and causal attention over half the length on average."""
    products = 2 * shape.linear_parameters
    attention = 2 * shape.num_hidden_layers * shape.attention_size * length
    return tokens * (products + attention)


def head_flops(shape: ModelShape, tokens: int) -> float:
    """Of one product with the language-model head."""
    return 2.0 * tokens * shape.hidden_size * shape.vocab_size


def update_flops(shape: ModelShape, setting: Setting, sequences: int) -> float:
    """Of forward and backward passes over `sequences`: 2 forwards' worth with LoRA, 3 in full, 1 more recomputed."""
    tokens = sequences * setting.length
    passes = (3 if setting.lora_rank is None else 2) + setting.activation_checkpointing
    trunks = 2 if setting.stage == "ppo" and setting.critic == "adapter" else 1
    head = 0.0
    if setting.stage != "reward":  # the tiles of the fused head are computed again on the way back
        head = (passes + 1) * head_flops(shape, tokens)
    return trunks * passes * forward_flops(shape, tokens, setting.length) + head


def step_seconds(shape: ModelShape, setting: Setting, machine: Machine) -> float | None:
    """Of one update of SFT or the reward model, all devices at work; None where the device's speed is not known."""
    if machine.flops is None:
        return None
    sequences = setting.batch_size * setting.accumulation
    return update_flops(shape, setting, sequences) / (machine.flops * _USE_OF_FLOPS)


def iteration_seconds(
    shape: ModelShape, setting: Setting, machine: Machine, epochs: int
) -> dict[str, float] | None:
    """Of one PPO iteration by phase: generation, scoring (four passes: policy, reference, reward, value), update."""
    if machine.flops is None or machine.bandwidth is None:
        return None
    flops = machine.flops * _USE_OF_FLOPS
    bandwidth = machine.bandwidth * _USE_OF_BANDWIDTH
    token = forward_flops(shape, setting.rollout, setting.length)
    token += head_flops(shape, setting.rollout)
    keys = setting.rollout * setting.length / 2 * shape.key_value_size * shape.num_hidden_layers
    read = weight_bytes(shape, setting) + keys * setting.compute_bytes
    launches = shape.num_hidden_layers * _SECONDS_PER_LAYER_AND_TOKEN
    per_token = max(token / flops, read / bandwidth, launches)
    tokens = setting.rollout * setting.length
    scoring = 4 * forward_flops(shape, tokens, setting.length) + 2 * head_flops(shape, tokens)
    return {
        "generation": setting.completion_length * per_token,
        "scoring": scoring / flops,
        "update": epochs * update_flops(shape, setting, setting.rollout) / flops,
    }
