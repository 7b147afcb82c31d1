"""What FSDP2 must know about a model with adapters and heads, so that shards train as one process does.

Traps that were measured (torch 2.13, accelerate 1.15, TRL 1.16), each held by a test in `tests/test_sharded.py`:

- A trainable head in FSDP's root unit gets no gradient, silently: heads are units of their own.
- A pass that does not enter through the root's `forward` (scoring with another role, `generate`) meets parameters
  that are still sharded: `alignment.models.distributed.as_forward` makes it one.
- Processes whose completions differ in length leave the generation loop at different steps, and the others wait
  forever for their part of the next layer: transformers keeps them in step only for models it knows to be sharded.
- accelerate's bf16 policy rounds each unit's output to bfloat16: log-probabilities and values are computed in float32
  and must stay so, or the ratio of two equal passes is not 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from accelerate.utils.dataclasses import get_module_class_from_name
from peft import PeftModel
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer


def own_units(trainer: Trainer, *heads: str) -> None:
    """Make the model's layers, and the modules of the class names `heads`, units of FSDP. Call it before training.

    Does nothing where the trainer does not shard.
    """
    plugin: Any = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    model: Any = trainer.model
    names = [*(plugin.transformer_cls_names_to_wrap or model._no_split_modules or ()), *heads]
    known = [n for n in names if get_module_class_from_name(model, n) is not None]
    plugin.transformer_cls_names_to_wrap = known
    plugin.mixed_precision_policy = exact_outputs(plugin.mixed_precision_policy)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    base._is_fsdp_managed_module = True  # read by `generate`: all processes take equally many steps


def exact_outputs(policy: MixedPrecisionPolicy | None) -> MixedPrecisionPolicy | None:
    """The policy with gradients summed in float32, and outputs left as they are."""
    if policy is None:
        return None
    return replace(policy, reduce_dtype=torch.float32, output_dtype=None)
