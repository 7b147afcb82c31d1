"""What autograd keeps for the backward pass, counted on shapes alone (no storage, no weights).

Two and three decoder layers of the model run forward on torch's fake tensors while a hook adds up each tensor that is
saved for the backward pass. The count is linear in layers and sequences and at most quadratic in their length, so six
runs give it for the whole model. That follows any architecture, its casts between precisions and PEFT's adapters, where
a formula fits one family. Attention counts as a fused kernel does it (queries, keys, values, output and one log-sum per
head and token; Dao et al. 2022, arXiv:2205.14135), unless the architecture asks for eager attention, as Gemma 2 does:
then length x length scores are kept.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from alignment.errors import ModelError
from alignment.models.shapes import on_meta

_LENGTH = 32  # of the counted passes: once, twice and three times this many tokens
_KERNEL = "concord_counted"


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes kept by one pass, and adapter parameters; all counts are per decoder layer or for the rest of the model."""

    # Per sequence and length^2, per token, and whatever the tokens (copies of weights in another precision).
    layer: tuple[float, float, float]
    rest: tuple[float, float, float]
    adapter_layer: float  # parameters of the adapter on one decoder layer
    adapter_rest: float  # and on what lies outside the decoder layers
    adapted_layer: float  # weights of one decoder layer that carry an adapter

    def saved(self, sequences: int, length: int, layers: int) -> float:
        """Bytes kept for the backward pass of `sequences` x `length` tokens through `layers` layers and the rest."""

        def kept(part: tuple[float, float, float]) -> float:
            return sequences * length * (part[0] * length + part[1]) + part[2]

        return layers * kept(self.layer) + kept(self.rest)

    def adapter(self, layers: int) -> float:
        """Parameters of the adapter."""
        return layers * self.adapter_layer + self.adapter_rest


def count_activations(
    config: Any,
    *,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    lora_rank: int | None,
    target_modules: str | list[str] = "all-linear",
) -> Activations:
    """Count for weights of `dtype`, under autocast to another type or none; `lora_rank` None trains all weights.

    Raises `ModelError` where the architecture cannot run on fake tensors (experts chosen by the data).
    """
    counts = {}
    for layers in (2, 3):
        model = _model(config, layers, dtype, lora_rank, target_modules)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        tuners = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        adapted = sum(m.get_base_layer().weight.numel() for m in tuners)  # pyright: ignore
        try:
            once, twice, thrice = (_saved_bytes(model, n * _LENGTH, autocast) for n in (1, 2, 3))
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise ModelError(
                f"The activations of the architecture {config.model_type!r} cannot be counted without its weights "
                f"({str(error).splitlines()[0]}). Plan with a dense model of the same size."
            ) from error
        bend = (
            thrice - 2 * twice + once
        )  # the second difference of a parabola is twice its leading coefficient
        slope = twice - once - 1.5 * bend
        fixed = once - slope - bend / 2
        counts[layers] = (bend / 2 / _LENGTH**2, slope / _LENGTH, fixed, trainable, adapted)
    layer = [three - two for two, three in zip(counts[2], counts[3], strict=True)]
    rest = [two - 2 * one for two, one in zip(counts[2], layer, strict=True)]
    return Activations(
        (layer[0], layer[1], layer[2]), (rest[0], rest[1], rest[2]), layer[3], rest[3], layer[4]
    )


def _model(config: Any, layers: int, dtype: Any, rank: int | None, targets: Any) -> Any:
    """The model cut to a few layers, on the meta device, with the adapter that would be trained."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * layers
    AttentionInterface.register(_KERNEL, _attention)
    AttentionMaskInterface.register(_KERNEL, lambda *args, **kwargs: None)
    eager = on_meta(copy.deepcopy(cut)).config._attn_implementation == "eager"
    model = on_meta(cut, dtype=dtype, attn_implementation="eager" if eager else _KERNEL)
    if rank is not None:
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets)
        with torch.device("meta"):
            try:
                model = get_peft_model(model, lora)
            except ValueError as error:
                raise ModelError(
                    f"An adapter cannot be planned: {error} Check lora_target_modules."
                ) from error
    return model.train()


def _saved_bytes(model: Any, tokens: int, autocast: torch.dtype | None) -> int:
    """Bytes of the storages that one forward pass of the backbone keeps, parameters left out."""
    backbone = getattr(model, "get_base_model", lambda: model)().base_model
    kept: dict[
        int, torch.Tensor
    ] = {}  # by address of the storage; held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_fake_storage(model)
        weights = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
        ids = torch.zeros(1, tokens, dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        mixed = torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None)
        with hooks, mixed:
            output = backbone(input_ids=ids, use_cache=False)
        total = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
        del output
    return total


def _give_fake_storage(model: Any) -> None:
    """Replace meta parameters and buffers by fake ones on the processor; tied parameters stay tied."""
    fakes: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in fakes:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                fakes[id(parameter)] = torch.nn.Parameter(fake, parameter.requires_grad)
            module._parameters[name] = fakes[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _FusedAttention(torch.autograd.Function):
    """Saves what a fused attention kernel saves; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        output = torch.empty_like(query)
        log_sums = torch.empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
    """An attention function of transformers: [batch, heads, length, size] to [batch, length, heads, size]."""
    return _FusedAttention.apply(query, key, value).transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]
