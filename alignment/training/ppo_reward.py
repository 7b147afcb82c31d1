"""Where the reward comes from: the trunk's reward role, any Python callable, a scorer, another reward model, or a sum.

Every term maps prompts and completions to one raw score each. The trunk's own term, and how fluent the reference finds
a completion, are read off passes that the trainer makes anyway; all others see texts.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignment.config import RewardSource
from alignment.errors import ConfigError, ModelError, TrainingError
from alignment.evaluation.toxicity import load_scorer
from alignment.files import read_json
from alignment.models.loading import encode_completion, encode_prompt, load_tokenizer, placed
from alignment.models.trunk import ADAPTER_FILE, REWARD_FILE, RewardScale, Trunk
from alignment.records import PromptText
from alignment.training import ppo_math

BATCH_SIZE = 32
RewardFunction = Callable[[Sequence[PromptText], Sequence[str]], Any]  # an array of one float each


@dataclass(frozen=True)
class RewardTerm:
    """One term of the reward. `function` is None for what the trainer's passes tell, as `kind` says."""

    name: str
    weight: float
    scale: RewardScale
    function: RewardFunction | None
    kind: str = "callable"


class RewardMix:
    """The terms of the reward, in order, and their weighted sum."""

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        self.terms = tuple(terms)
        columns = {term.kind: i for i, term in enumerate(self.terms) if term.function is None}
        self.own, self.fluency = columns.get("reward-model"), columns.get("fluency")

    def from_texts(self, prompts: Sequence[PromptText], completions: Sequence[str]) -> torch.Tensor:
        """Raw scores [B, N] of all terms that read texts; the columns `own` and `fluency` are 0.

        Raises `TrainingError` where a term raises, or gives another count, or something that is not a number.
        """
        raw = torch.zeros(len(prompts), len(self.terms))
        for column, term in enumerate(self.terms):
            if term.function is not None:
                raw[:, column] = torch.from_numpy(_checked(term, prompts, completions))
        return raw

    def combined(self, raw: torch.Tensor) -> torch.Tensor:
        """Normalised scores [B] of raw ones [B, N]; `TrainingError` where one is not a number."""
        if not torch.isfinite(raw).all():
            broken = [t.name for i, t in enumerate(self.terms) if not raw[:, i].isfinite().all()]
            raise TrainingError(
                f"The reward of a completion is not a number ({', '.join(broken)}). Check that reward (a reward "
                "model's loss may have diverged); nothing was updated with it."
            )
        options: dict[str, Any] = {"dtype": raw.dtype, "device": raw.device}
        weights = torch.tensor([term.weight for term in self.terms], **options)
        means = torch.tensor([term.scale.mean for term in self.terms], **options)
        stds = torch.tensor([term.scale.std for term in self.terms], **options)
        return ppo_math.mixed_scores(raw, weights, means, stds)


def _checked(
    term: RewardTerm, prompts: Sequence[PromptText], completions: Sequence[str]
) -> np.ndarray:
    assert term.function is not None
    try:
        scores = np.asarray(term.function(list(prompts), list(completions)), dtype=np.float32)
    except Exception as error:
        raise TrainingError(
            f"The reward {term.name} failed on {len(prompts)} completions: {type(error).__name__}: {error}. Mend it; "
            "nothing was updated with these completions."
        ) from error
    if scores.shape != (len(prompts),):
        raise TrainingError(
            f"The reward {term.name} returned {_shape(scores)} for {len(prompts)} completions. It must return one "
            "number for each, in their order."
        )
    return scores


def _shape(scores: np.ndarray) -> str:
    return f"{len(scores)} scores" if scores.ndim == 1 else f"an array of shape {scores.shape}"


def load_rewards(sources: Sequence[RewardSource], trunk: Trunk) -> RewardMix:
    """The terms of the reward that the configuration names; none means the trunk's reward role alone."""
    terms = []
    for source in sources or [RewardSource()]:  # pyright: ignore[reportCallIssue]
        function, scale = _loaded(source, trunk)
        mean = scale.mean if source.mean is None else source.mean
        std = scale.std if source.std is None else source.std
        name = source.name or source.kind
        terms.append(RewardTerm(name, source.weight, RewardScale(mean, std), function, source.kind))
    return RewardMix(terms)


def _loaded(source: RewardSource, trunk: Trunk) -> tuple[RewardFunction | None, RewardScale]:
    plain = RewardScale(0.0, 1.0)
    if source.kind == "reward-model":
        return None, trunk.scale
    if source.kind == "fluency":
        return None, plain
    if source.kind == "callable":
        return load_callable(source.name), plain
    if source.kind == "scorer":
        scorer = load_scorer(source.name, source.label)
        return lambda prompts, completions: -scorer(completions), plain
    return load_other_model(source.name)


def load_callable(name: str) -> RewardFunction:
    """The function `module:function`, looked up in the current folder too; `ConfigError` where there is none.

    It is called with the prompts (texts or lists of messages) and the completions (texts); a float for each comes back.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"The module of the reward {name} cannot be imported: {type(error).__name__}: {error}. Run from the folder "
            "that holds it, or install it."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{module_name} has no function {function_name!r}. Name the reward as module:function."
        )
    return function


def load_other_model(name: str) -> tuple[RewardFunction, RewardScale]:
    """A reward model apart from the trunk: one of Concord on any base, or a classifier with a single output.

    One of Concord is an adapter, read on its own base, or was trained in full and holds every weight. It has its own
    weights in memory and reads texts with its own tokenizer. Raises `ModelError` where no such model can be loaded.
    """
    folder = Path(name)
    about = read_json(folder / REWARD_FILE) if (folder / REWARD_FILE).is_file() else None
    adapted = about is not None and (folder / ADAPTER_FILE).is_file()
    source = about["base_model"] if about is not None and adapted else name
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, **({"num_labels": 1} if adapted else {})
        )
        tokenizer = AutoTokenizer.from_pretrained(name) if about is None else load_tokenizer(name)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"No reward model can be loaded from {name}: {reason} Give the folder of a reward model of Concord, or of "
            "a sequence classifier with one output."
        ) from error
    if model.config.num_labels != 1:
        raise ModelError(
            f"{name} has {model.config.num_labels} outputs, and a reward model has one. For a classifier of toxicity "
            "use a reward of kind scorer."
        )
    if adapted:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, name)
    scale = RewardScale(about["score_mean"], about["score_std"]) if about else RewardScale(0.0, 1.0)
    return _scored_by(placed(model).eval(), tokenizer), scale


def _scored_by(model: Any, tokenizer: Any) -> RewardFunction:
    def scored(prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
        rows = [
            torch.tensor(encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, text))
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        scores: list[float] = []
        for start in range(0, len(rows), BATCH_SIZE):
            scores += _last_token_scores(model, rows[start : start + BATCH_SIZE])
        return scores

    return scored


@torch.no_grad()
def _last_token_scores(model: Any, rows: list[torch.Tensor]) -> list[float]:
    """Decoders are read by length: transformers' own pooling looks for pad ids, which may equal end-of-sequence."""
    inner = model.base_model.model if hasattr(model, "peft_config") else model
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    ids = pad_sequence(rows, batch_first=True).to(model.device)
    mask = (torch.arange(ids.size(1), device=model.device) < lengths[:, None]).long()
    if not hasattr(inner, "score"):  # an encoder pools by itself
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    hidden = inner.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return inner.score(hidden[torch.arange(len(rows)), lengths - 1]).squeeze(-1).float().tolist()
