"""Rollouts by vLLM: TRL's options, handed on, and a clear word where vLLM is not there."""

from __future__ import annotations

import importlib.util
from typing import Any

from alignment.config import PPOTrainingConfig
from alignment.errors import TrainingError


def vllm_arguments(config: PPOTrainingConfig) -> dict[str, Any]:
    """The arguments of `GRPOConfig` for generation with vLLM, or none.

    Raises `TrainingError` where vLLM is asked for and not installed, saying what to install.
    """
    if not config.use_vllm:
        return {}
    if importlib.util.find_spec("vllm") is None:
        raise TrainingError(
            "ppo.use_vllm is on, but vLLM is not installed. Install it with `pip install 'concord-rlhf[vllm]'` on a "
            "machine with a GPU, or take ppo.use_vllm out: transformers then generates the rollouts."
        )
    return {
        "use_vllm": True,
        "vllm_mode": config.vllm_mode,
        "vllm_gpu_memory_utilization": config.vllm_gpu_memory_utilization,
        "vllm_server_base_url": config.vllm_server_base_url,
    }
