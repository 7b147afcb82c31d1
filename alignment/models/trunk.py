"""One frozen base, several roles: reference = adapters off; policy, reward and value = LoRA adapters on it.

The reward and value roles read a scalar off the last hidden states with a head of their own. Which adapter is in
force is switched here without PEFT's `set_adapter`, which would also flip `requires_grad`: what trains is settled
once, so the optimizer's groups stay fixed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification
from trl.trainer.utils import FusedCausalLMOutput

from alignment.errors import ModelError
from alignment.files import read_json
from alignment.models.distributed import as_forward, is_main, whole_state
from alignment.models.reward_heads import deviation, load_heads

POLICY, REWARD, VALUE = "default", "reward", "value"
REWARD_FILE, ADAPTER_FILE = "reward.json", "adapter_model.safetensors"


class ScalarHead(nn.Module):
    """A linear read-out of the last hidden states, in float32. A module of its own, so that FSDP can wrap it."""

    def __init__(self, weight: torch.Tensor, bias: float = 0.0) -> None:
        """`weight`: [1, hidden]."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> scalar [...], in float32 also where the rest computes in bfloat16."""
        with torch.autocast(hidden.device.type, enabled=False):
            weight, bias = self.weight.float(), self.bias.float()
            read = nn.functional.linear(hidden.float(), weight, bias)
        return read.squeeze(-1).clone()  # no view: FSDP hangs its hooks on what a module returns


@dataclass
class PolicyValueOutput(FusedCausalLMOutput):
    """TRL's fused output with `state_values` [batch, seq_len - 1]: V before each next token."""

    state_values: torch.Tensor | None = None


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
        self.sd_quantiles: dict[str, float] | None = None
        self._heads: torch.Tensor | None = None  # [M, H], beside the score head that is their mean
        self._own_reward_backbone: Any = None  # of a reward model that was trained in full

    @property
    def base(self) -> Any:
        """The causal LM inside the PEFT model."""
        return self.model.get_base_model()

    @contextlib.contextmanager
    def role(self, adapter: str | None) -> Iterator[None]:
        """Put one adapter in force, or none (the reference), until the block ends."""
        layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
        for layer in layers:
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [adapter]
        try:
            yield
        finally:
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
        mine = fingerprint(self.base)
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
            self._add_adapter(VALUE, self.model.peft_config[POLICY], {})
            self.base.value_head = ScalarHead(torch.zeros_like(self.base.reward_head.weight))
            self._train_only()
            return
        config = self.model.peft_config[REWARD]
        state = {
            name.replace(f".{REWARD}.", "."): tensor
            for name, tensor in self.model.state_dict().items()
            if f".{REWARD}." in name
        }
        self._add_adapter(VALUE, config, state)
        weight = self.base.reward_head.weight / self.scale.std
        self.base.value_head = ScalarHead(weight, -self.scale.mean / self.scale.std)
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

    def hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, S, H] of the role in force."""
        backbone = self.base.base_model
        return backbone(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state

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
        if self._own_reward_backbone is not None:
            hidden = self._own_reward_backbone(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
        else:
            with self.role(REWARD):
                hidden = self.hidden(input_ids=input_ids, attention_mask=attention_mask)
        last = attention_mask.size(1) - 1 - attention_mask.flip(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def add_value_output(self) -> None:
        """Let `model(..., fused_lm_head=True)` also run the value role and return `PolicyValueOutput`.

        Call it after TRL's `add_fused_lm_head`. Values come out through the model's output, so that DDP and FSDP see
        one forward and one backward pass.
        """
        trunk, fused_forward = self, self.base.forward

        def forward(module: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
            output = fused_forward(*args, fused_lm_head=fused_lm_head, **kwargs)
            if not fused_lm_head or not hasattr(module, "value_head"):
                return output
            with trunk.role(VALUE):
                hidden = trunk.hidden(kwargs["input_ids"], kwargs["attention_mask"])
            fields = {name: value for name, value in output.items()}
            return PolicyValueOutput(**fields, state_values=module.value_head(hidden[:, :-1]))

        self.base.forward = MethodType(forward, self.base)

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
        "embedding_sum": round(float(embedding.detach().double().sum()), 2),
    }


def describe(base: dict[str, Any]) -> str:
    """A fingerprint in words."""
    return (
        f"{base['model_type']}, {base['num_hidden_layers']} layers of {base['hidden_size']}, "
        f"vocabulary {base['vocab_size']}, embedding sum {json.dumps(base['embedding_sum'])}"
    )
