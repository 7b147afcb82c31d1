"""One frozen base, several roles: reference = adapters off; policy, reward and value = LoRA adapters on it.

The reward and value roles read a scalar off the last hidden states with a head of their own. Which adapter is in
force is switched here without PEFT's `set_adapter`, which would also flip `requires_grad`: what trains is settled
once, so the optimizer's groups stay fixed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification
from trl.trainer.utils import FusedCausalLMOutput

from alignment.errors import ModelError
from alignment.files import read_json
from alignment.models.distributed import as_forward, is_main, is_sharded, whole_state
from alignment.models.lora import decoder_layers, fuse_lora
from alignment.models.lower_trunk import LowerTrunk
from alignment.models.reward_heads import deviation, load_heads
from alignment.models.scalar_heads import ScalarHead, ValueHead

REFERENCE = "reference"  # no adapter
POLICY, REWARD, VALUE = "default", "reward", "value"
REWARD_FILE, ADAPTER_FILE = "reward.json", "adapter_model.safetensors"
BASE_FILE = "base.json"  # the fingerprint of the base, beside a policy adapter


@dataclass
class RoleOutput(FusedCausalLMOutput):
    """TRL's fused output of the last `keep` tokens, `log_probs` and `entropy` [B, keep], and what our roles add.

    `state_values`: of the policy's pass, V before each token [B, keep]; of the reward's, the score of the text up to
    each token and the one before them, [B, keep + 1]. `lower_states`: of the reference's pass, where the lower trunk is
    shared, the states [B, S, H] that enter the first layer with an adapter.
    """

    state_values: torch.Tensor | None = None
    lower_states: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class RewardScale:
    """Mean and standard deviation of the reward model's scores on its training completions."""

    mean: float
    std: float


class Trunk:
    """The PEFT model with its roles. `model` is what a trainer wraps."""

    def __init__(self, base: nn.Module, lora: LoraConfig) -> None:
        self.model: PeftModel = get_peft_model(base, lora)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        self.scale = RewardScale(0.0, 1.0)
        self.lower: LowerTrunk | None = None
        self._sharing: set[str] = set()  # roles whose lower layers are those of the base
        self._in_force: str | None = POLICY
        self.sd_quantiles: dict[str, float] | None = None
        self._heads: torch.Tensor | None = None  # [M, H], beside the score head that is their mean
        self.base_print = fingerprint(base)
        self._own_reward_backbone: Any = None  # of a reward model that was trained in full

    @property
    def base(self) -> Any:
        """The causal LM inside the PEFT model."""
        return self.model.get_base_model()

    def _tuners(self) -> list[Any]:
        return [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]

    @contextlib.contextmanager
    def role(self, adapter: str | None) -> Iterator[None]:
        """Put one adapter in force, or none (the reference), until the block ends."""
        layers = self._tuners()
        before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
        outside, self._in_force = self._in_force, adapter
        for layer in layers:
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [adapter]
        try:
            yield
        finally:
            self._in_force = outside
            for layer, (active, disabled) in zip(layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled

    def load_reward(self, folder: Path) -> None:
        """Add the reward adapter and head that `alignment.training.reward` saved, frozen.

        A reward model that was trained in full brings a backbone of its own, a second model in memory. Raises
        `ModelError` where the folder holds no reward model, or one of another base.
        """
        folder = Path(folder)
        if not (folder / REWARD_FILE).is_file():
            raise ModelError(
                f"{folder} holds no reward model ({REWARD_FILE} is missing). Run `concord train reward`."
            )
        about = read_json(folder / REWARD_FILE)
        mine = self.base_print
        if about["base"] != mine:
            raise ModelError(
                f"The reward model in {folder} was trained on another base ({describe(about['base'])}) than this "
                f"policy's ({describe(mine)}). Train a reward model on this base, or choose the reward model's base."
            )
        self.scale = RewardScale(about["score_mean"], about["score_std"])
        self.sd_quantiles, self._heads = about.get("sd_quantiles"), load_heads(folder)
        if (folder / ADAPTER_FILE).is_file():
            state = load_file(folder / ADAPTER_FILE)
            self._add_adapter(REWARD, LoraConfig.from_pretrained(str(folder)), state)
            weight = next(tensor for name, tensor in state.items() if name.endswith("score.weight"))
        else:
            whole = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype=torch.float32
            )
            whole.requires_grad_(False).eval().to(self.base.device)
            self._own_reward_backbone, weight = whole.base_model, whole.score.weight
        self.base.reward_head = ScalarHead(weight).to(self.base.device)
        self._train_only()

    def add_value(self) -> None:
        """Add the value adapter, a copy of the reward adapter, whose head predicts the normalised score.

        A reward model that was trained in full has no adapter to copy: the value then starts at 0 everywhere.
        """
        if self._own_reward_backbone is not None:
            self.add_fresh_value(adapter=True)
            return
        config = self.model.peft_config[REWARD]
        state = {
            name.replace(f".{REWARD}.", "."): tensor
            for name, tensor in self.model.state_dict().items()
            if f".{REWARD}." in name
        }
        self._add_adapter(VALUE, config, state)
        weight = self.base.reward_head.weight / self.scale.std
        self._read_value_by(ValueHead(weight, -self.scale.mean / self.scale.std))

    def add_fresh_value(self, adapter: bool) -> None:
        """Add a value that is 0 everywhere: on an adapter of its own, or a head on the policy's hidden states."""
        if adapter:
            self._add_adapter(VALUE, self.model.peft_config[POLICY], {})
        hidden = self.base.config.get_text_config().hidden_size
        self._read_value_by(ValueHead(torch.zeros(1, hidden)))

    def _read_value_by(self, head: ValueHead) -> None:
        self.base.value_head = head.to(self.base.device)
        self._train_only()

    def _add_adapter(self, name: str, config: Any, state: dict[str, torch.Tensor]) -> None:
        plain = {
            key: getattr(config, key)
            for key in ("r", "lora_alpha", "target_modules", "layers_to_transform")
        }
        self.model.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **plain))
        adapter = {key: tensor for key, tensor in state.items() if ".lora_" in key}
        result = set_peft_model_state_dict(self.model, adapter, adapter_name=name)
        if result.unexpected_keys:
            raise ModelError(
                f"The {name} adapter has layers that this base lacks: {result.unexpected_keys[:2]}."
            )

    def _train_only(self) -> None:
        """Policy and value train; reward and base are frozen."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(
                f".{POLICY}." in name or f".{VALUE}." in name or ".value_head." in name
            )

    def lowest_layer(self, adapter: str) -> int:
        """The first decoder layer that carries the adapter; the number of layers where none does."""
        layers = decoder_layers(self.base)
        for number, layer in enumerate(layers):
            if any(isinstance(m, BaseTunerLayer) and _carries(m, adapter) for m in layer.modules()):
                return number
        return len(layers)

    def share_lower_trunk(self) -> str | None:
        """Let passes start above the layers that no trained adapter touches. Returns why not, or None."""
        try:
            layers = decoder_layers(self.base)
        except ModelError as error:
            return str(error)
        lowest = {name: self.lowest_layer(name) for name in self.model.peft_config}
        trained = [name for name in (POLICY, VALUE) if name in lowest]
        lowest_trained = min(trained, key=lambda name: lowest[name])
        first = lowest[lowest_trained]
        if first == 0:
            who = "policy" if lowest_trained == POLICY else "value (a copy of the reward model's)"
            return f"the adapter of the {who} begins at layer 0; set lora_layers to share what lies below"
        self.lower = LowerTrunk(layers, first)
        self._sharing = {name for name, layer in lowest.items() if layer >= first}
        return None

    def hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, S, H] of the role in force, for `input_ids`, `attention_mask` (and `position_ids`)."""
        return self.base.base_model(**inputs, use_cache=False).last_hidden_state

    @torch.no_grad()
    def scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The reward model's raw score [B], read at the last unmasked token of each row."""
        return as_forward(self.model, self._scores)(input_ids, attention_mask)

    def _scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.base.reward_head(self._reward_state(input_ids, attention_mask))

    @torch.no_grad()
    def score_deviation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Standard deviation [B] of the raw score over the ensemble's heads.

        `reward_heads.region_warning` holds it against `sd_quantiles`, those of the training completions. Raises
        `ModelError` where the reward model has one head only.
        """
        return self.scores_and_deviation(input_ids, attention_mask)[1]

    @torch.no_grad()
    def scores_and_deviation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`scores` and `score_deviation` from one pass."""
        if self._heads is None:
            raise ModelError(
                "This reward model has a single head, which cannot tell how sure it is. Train it with "
                "reward.ensemble_heads of 2 or more."
            )
        return as_forward(self.model, self._scores_and_deviation)(input_ids, attention_mask)

    def _scores_and_deviation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        state = self._reward_state(input_ids, attention_mask)
        assert self._heads is not None
        heads = nn.functional.linear(state.float(), self._heads.to(state.device))
        return self.base.reward_head(state), deviation(heads)

    def _reward_state(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The reward model's last hidden state [B, H] at the last unmasked token of each row."""
        hidden = self._reward_hidden(input_ids=input_ids, attention_mask=attention_mask)
        last = attention_mask.size(1) - 1 - attention_mask.flip(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def _reward_hidden(self, **inputs: Any) -> torch.Tensor:
        """Hidden states [B, S, H] of the reward role: by its adapter, or by a backbone of its own."""
        if self._own_reward_backbone is not None:
            return self._own_reward_backbone(**inputs, use_cache=False).last_hidden_state
        with self.role(REWARD):
            return self.hidden(**inputs)

    def add_roles(self) -> None:
        """Let `model(..., fused_lm_head=True, role=..., keep=T)` run a role and return `RoleOutput`, last T tokens.

        Call it after TRL's `add_fused_lm_head`. Values come out through the model's output, so that DDP and FSDP see
        one forward and one backward pass. `lower_states` [B, S, H] are those of a reference pass over the same batch.
        """
        trunk, fused_forward = self, self.base.forward
        for layer in self._tuners():
            for adapter in layer.lora_A:
                fuse_lora(layer, adapter)

        @functools.wraps(type(self.base).forward)
        def forward(
            module: Any,
            *args: Any,
            fused_lm_head: bool = False,
            role: str = POLICY,
            keep: int = 0,
            lower_states: torch.Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            if not fused_lm_head:
                return fused_forward(*args, **kwargs)
            kwargs = {k: v for k, v in kwargs.items() if v is not None}  # PEFT names all it knows
            if role == REFERENCE:
                return trunk._reference(fused_forward, keep, lower_states, kwargs)
            with trunk._above(lower_states, role):
                if role == REWARD:
                    return trunk._reward(keep, kwargs)
                output, hidden = trunk._language(fused_forward, keep, kwargs)
                values = trunk._values(hidden, keep, kwargs)
            return RoleOutput(**dict(output.items()), state_values=values)

        self.base.forward = MethodType(forward, self.base)
        self._checkpoint_with_roles()

    @contextlib.contextmanager
    def _above(self, lower_states: torch.Tensor | None, role: str) -> Iterator[None]:
        if self.lower is None or lower_states is None or role not in self._sharing:
            yield
            return
        with self.lower.put_in(lower_states):
            yield

    def _language(
        self, fused_forward: Callable[..., Any], keep: int, inputs: dict[str, Any]
    ) -> tuple[Any, torch.Tensor]:
        """TRL's fused output of the last `keep` tokens, and the hidden states [B, keep + 1, H] it came from."""
        seen = []

        def last_ones(_: nn.Module, __: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, -keep - 1 :]
            seen.append(output.last_hidden_state)
            return output

        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        hook = self.base.base_model.register_forward_hook(last_ones)
        try:
            output = fused_forward(**inputs, labels=labels[:, -keep - 1 :], fused_lm_head=True)
        finally:
            hook.remove()
        return output, seen[0]

    def _reference(
        self,
        fused_forward: Callable[..., Any],
        keep: int,
        lower_states: torch.Tensor | None,
        inputs: dict[str, Any],
    ) -> RoleOutput:
        """The reference's pass; without `lower_states` it runs the whole model and gives them."""
        with self.role(None):
            if self.lower is None:
                output, _ = self._language(fused_forward, keep, inputs)
            elif lower_states is not None:
                with self.lower.put_in(lower_states):
                    output, _ = self._language(fused_forward, keep, inputs)
            else:
                with self.lower.watched():
                    output, _ = self._language(fused_forward, keep, inputs)
                    lower_states = self.lower.seen()
        return RoleOutput(**dict(output.items()), lower_states=lower_states)

    def _reward(self, keep: int, inputs: dict[str, Any]) -> RoleOutput:
        hidden = self._reward_hidden(**inputs)[:, -keep - 1 :]
        return RoleOutput(state_values=self.base.reward_head(hidden))

    def _values(self, hidden: torch.Tensor, keep: int, inputs: dict[str, Any]) -> torch.Tensor:
        """V before each of the last `keep` tokens, by the value adapter or by a head on the policy's `hidden`.

        The head's gradient stays out of the policy, which would otherwise serve two masters.
        """
        if VALUE in self.model.peft_config:
            with self.role(VALUE):
                hidden = self.hidden(**inputs)[:, -keep - 1 :]
        else:
            hidden = hidden.detach()
        return self.base.value_head(hidden[:, :-1])

    def _checkpoint_with_roles(self) -> None:
        """With activation checkpointing, a layer is computed again in the backward pass: in the role it first had."""
        base = self.base
        if not hasattr(base, "_set_gradient_checkpointing"):
            return
        original = base._set_gradient_checkpointing

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), self.role(self._in_force)

        def with_role(*, gradient_checkpointing_func: Any = checkpoint, **options: Any) -> None:
            func = functools.partial(gradient_checkpointing_func, context_fn=contexts)
            original(gradient_checkpointing_func=func, **options)

        base._set_gradient_checkpointing = with_role

    def can_merge(self) -> bool:
        """Whether the adapter can be added to its weights: plain floating-point tensors, not sharded or quantised."""
        weights = [layer.get_base_layer().weight for layer in self._tuners()]
        return not is_sharded() and all(
            w.is_floating_point() and type(w.data) is torch.Tensor and not hasattr(w, "quant_state")
            for w in weights
        )

    @contextlib.contextmanager
    def merged_policy(self) -> Iterator[None]:
        """Until the block ends, the policy is its adapter added to a copy of the weights, so that no pass pays for it.

        The weights themselves are put aside and come back untouched: nothing is subtracted again.
        """
        kept = []
        try:
            for layer in self._tuners():
                if _carries(layer, POLICY):
                    weight = layer.get_base_layer().weight
                    kept.append((weight, weight.data))
                    weight.data = weight.data + layer.get_delta_weight(POLICY).to(weight.dtype)
            with self.role(None):
                yield
        finally:
            for weight, data in kept:
                weight.data = data

    def trainable(self) -> dict[str, torch.Tensor]:
        """The parameters that train, by name: adapters of policy and value, and the value's head."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def frozen_checksum(self) -> int:
        """A sum over the bits of everything frozen: base, reward adapter and its head. Of this process's shards, where
        the model is sharded."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a pass may have left the root's whole
        total = 0
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                total += _bit_sum(parameter.detach())
        return total

    def save_policy(self, folder: Path) -> None:
        """Write the policy adapter alone, in PEFT's format. Where the model is sharded, every process must call it."""
        state = whole_state(self.model, lambda name: f".{POLICY}." in name)
        self.model.save_pretrained(
            str(folder), selected_adapters=[POLICY], state_dict=state, is_main_process=is_main()
        )


def fingerprint(model: Any) -> dict[str, Any]:
    """What tells two bases apart: architecture, sizes, and a sum over the embedding."""
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": embedding.shape[0],
        "embedding_sum": round(_summed(embedding), 2),
    }


def _summed(weight: torch.Tensor, power: int = 1) -> float:
    """The sum of a matrix' entries to the power in float64, some rows at a time: the whole would not fit beside it."""
    return sum(float((rows.double() ** power).sum()) for rows in weight.detach().split(4096))


def same_base(model: Any, other: dict[str, Any]) -> bool:
    """Whether `other` is the fingerprint of this base, whatever the precision in which either is held."""
    mine = fingerprint(model)
    rounding = 0.01 + 0.005 * math.sqrt(_summed(model.get_input_embeddings().weight, 2))
    apart = abs(mine.pop("embedding_sum") - other["embedding_sum"])
    return apart <= rounding and all(other[name] == value for name, value in mine.items())


def describe(base: dict[str, Any]) -> str:
    """A fingerprint in words."""
    return (
        f"{base['model_type']}, {base['num_hidden_layers']} layers of {base['hidden_size']}, "
        f"vocabulary {base['vocab_size']}, embedding sum {json.dumps(base['embedding_sum'])}"
    )


def _carries(layer: Any, adapter: str) -> bool:
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def _bit_sum(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = local.contiguous().view(integers[local.element_size()])
    return int(bits.sum(dtype=torch.int64))
