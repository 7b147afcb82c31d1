"""Which layers of a model carry a LoRA adapter, as PEFT wants it said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import nn
from transformers.pytorch_utils import Conv1D

from alignment.errors import ConfigError, ModelError


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of decoder layers of a causal LM or classifier, whatever it is called there.

    Raises `ModelError` where the model has no list of `num_hidden_layers` modules.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"{type(model).__name__} has no list of {count} decoder layers, so its layers can be neither planned nor given "
        "adapters singly. Set lora_layers to all."
    )


def layer_numbers(layers: str | Sequence[int], count: int) -> list[int]:
    """The layers that `lora_layers` names, of `count`, sorted. Raises `ConfigError` on one that is not there."""
    if layers == "all":
        return list(range(count))
    if layers == "upper-half":
        return list(range(count // 2, count))
    numbers = sorted({int(number) for number in layers})
    if not numbers or numbers[0] < 0 or numbers[-1] >= count:
        raise ConfigError(
            f"lora_layers names {numbers}, but the model's layers are 0 to {count - 1}. Name at least one of these, "
            "or choose all or upper-half."
        )
    return numbers


def lora_config(
    model: Any,
    *,
    task_type: str,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: str | Sequence[str],
    layers: str | Sequence[int],
    **more: Any,
) -> LoraConfig:
    """PEFT's configuration of an adapter on some layers of `model`.

    PEFT's `layers_to_transform` wants the linear maps by name, so "all-linear" is spelt out for it.
    """
    count = model.config.get_text_config().num_hidden_layers
    numbers = layer_numbers(layers, count)
    some: dict[str, Any] = {}
    if len(numbers) < count:
        if target_modules == "all-linear":
            target_modules = linear_names(model)
        some["layers_to_transform"] = numbers
    return LoraConfig(
        task_type=task_type,  # pyright: ignore[reportArgumentType]
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        **some,
        **more,
    )


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of all linear maps inside the decoder layers."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder_layers(model).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return sorted(names)


class FusedLora(LoraVariant):
    """PEFT's plain LoRA forward with fewer passes over the layer's output: scaled at rank r, added by one `addmm`."""

    @staticmethod
    def forward(
        module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """y + (s A x) B^T, for x [..., in] and y [..., out]."""
        down = module.lora_A[active_adapter](x) * module.scaling[active_adapter]
        up = module.lora_B[active_adapter].weight.t()
        if result.dtype != down.dtype:  # a base in half precision, adapters in float32
            return result + down @ up
        flat = torch.addmm(result.flatten(0, -2), down.flatten(0, -2), up)
        return flat.view_as(result)


def fuse_lora(layer: Any, adapter: str) -> None:
    """Let a plain LoRA layer without dropout or bias run `FusedLora`; others stay as they are."""
    if type(layer) is not Linear or adapter in layer.lora_variant:
        return
    plain = isinstance(layer.lora_dropout[adapter], nn.Identity)
    if plain and layer.lora_B[adapter].bias is None:
        layer.lora_variant[adapter] = FusedLora()
