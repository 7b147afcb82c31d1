"""Paired generation: the same prompts, sampling settings and seed, n completions each, from any number of models.

The first model is the reference. Each model's completions are scored for likelihood under the reference (perplexity)
and under itself (KL), and so is a held-out general text where one is given (the forgetting probe).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from alignment.config import GenerationConfig
from alignment.errors import InputError, ModelError
from alignment.evaluation.checkpoints import needs_adapter, run_of, write_adapter
from alignment.evaluation.material import ModelCompletions, Probe, without_tokens
from alignment.files import read_json
from alignment.models.likelihood import negative_log_likelihood
from alignment.models.loading import (
    context_window,
    encode_completion,
    encode_prompt,
    load_causal_lm,
    load_tokenizer,
)
from alignment.models.trunk import describe, fingerprint, same_base
from alignment.progress import Progress, silent
from alignment.records import Prompt
from alignment.sampling import Generated, as_completions, sample_completions

_PROBE_TOKENS = 512  # of each general text, at most
MIN_PROBE_TEXTS = 2


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase


def paired_completions(
    models: Sequence[tuple[str, str]],
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    per_prompt: int,
    run_id: str,
    *,
    precision: str = "fp32",
    probe: Sequence[str] = (),
    one_base: bool = False,
    progress: Progress = silent,
) -> tuple[list[ModelCompletions], Probe | None]:
    """Completions of each model (name, folder or hub id) with their likelihoods, and the loss on the `probe` texts.

    Every model starts from `config.seed`, its base held in `precision`. Models that read other tokens than the first
    have no `own_nll`, since no KL is defined, and their token counts are left out: words are counted instead.
    `one_base`: the others are adapters of the first. Raises `ModelError` where a model or tokenizer cannot be loaded,
    or an adapter belongs to another base.
    """
    first: _Model | None = None
    made, losses = [], {}
    foreign = False
    for name, source in models:
        loaded = _load(name, source, precision)
        first = first or loaded
        if one_base and loaded is not first:
            _check_base(first, loaded)
        drawn = sample_completions(
            loaded.model,
            loaded.tokenizer,
            prompts,
            config,
            per_prompt,
            label=f"completions {name}",
            progress=progress,
        )
        same = same_tokens(first.tokenizer, loaded.tokenizer)
        foreign = foreign or not same
        one = _with_likelihoods(first, loaded, prompts, drawn, same, config.batch_size, run_id)
        made.append(ModelCompletions(**one, source=source))
        if probe:
            losses[name] = probe_loss(loaded.model, loaded.tokenizer, probe, config.batch_size)
        progress(f"likelihoods {name}", 1, 1)
    if foreign:
        made = [without_tokens(model) for model in made]
    sizes = np.array([len(text.encode()) for text in probe], dtype=float)
    return made, Probe(losses, sizes) if probe else None


def _load(name: str, source: str, precision: str) -> _Model:
    """A model and its tokenizer; a checkpoint of PPO is made an adapter for as long as loading takes."""
    folder = Path(source)
    if not needs_adapter(folder):
        tokenizer = load_tokenizer(_tokenizer_source(source))
        return _Model(name, load_causal_lm(source, precision), tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        write_adapter(folder, Path(scratch))
        model = load_causal_lm(scratch, precision)
    return _Model(name, model, load_tokenizer(_tokenizer_source(str(run_of(folder)))))


def _check_base(first: _Model, loaded: _Model) -> None:
    """`ModelError` where `loaded` is an adapter of another base than `first`: the difference would be the bases'."""
    if not hasattr(loaded.model, "get_base_model"):
        return
    own = fingerprint(loaded.model.get_base_model())
    if not same_base(first.model, own):
        raise ModelError(
            f"{loaded.name} is an adapter of another base ({describe(own)}) than {first.name} "
            f"({describe(fingerprint(first.model))}). Give its own base with --model, or compare two models as they "
            "are with `concord evaluate compare`."
        )


def _with_likelihoods(
    first: _Model,
    loaded: _Model,
    prompts: Sequence[Prompt],
    drawn: Sequence[Sequence[Generated]],
    same: bool,
    batch_size: int,
    run_id: str,
) -> dict[str, Any]:
    """The fields of `ModelCompletions`: completions, and their cost under the reference and the model itself."""
    completions = as_completions(prompts, drawn, f"{run_id}/{loaded.name}")
    reader = loaded.tokenizer if same else first.tokenizer
    asked = [
        ids
        for prompt, group in zip(prompts, drawn, strict=True)
        for ids in [encode_prompt(reader, prompt.prompt)] * len(group)
    ]
    said = [
        list(g.ids) if same else encode_completion(first.tokenizer, g.text, g.finished)
        for group in drawn
        for g in group
    ]
    cost = negative_log_likelihood(first.model, asked, said, batch_size)
    own = None
    if loaded is first:
        own = cost
    elif same:
        own = negative_log_likelihood(loaded.model, asked, said, batch_size)
    return {
        "name": loaded.name,
        "completions": completions,
        "negative_log_likelihood": cost,
        "tokens": np.array([len(ids) for ids in said], dtype=float),
        "own_nll": own,
    }


def probe_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 32
) -> np.ndarray:
    """-log p of each text in nats, shape [n], after the begin token where there is one, else after its first token.

    Only the first 512 tokens, or what the context window holds, are read.
    """
    window = min(context_window(model.config) or _PROBE_TOKENS, _PROBE_TOKENS)
    starts, rests = [], []
    for text in texts:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else ids[:1]
        rest = ids if tokenizer.bos_token_id is not None else ids[1:]
        starts.append(begin)
        rests.append(rest[: window - 1])
    return negative_log_likelihood(model, starts, rests, batch_size)


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether token ids mean the same to both, so that likelihoods can be compared token by token."""
    return first.get_vocab() == second.get_vocab() and first.eos_token_id == second.eos_token_id


def read_probe(path: Path) -> list[str]:
    """The general texts of a probe, one a line. `InputError` where there are fewer than two."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        raise InputError(
            f"The probe {path} is not a text file that exists. Give UTF-8 text, one passage a line."
        ) from None
    texts = [line.strip() for line in lines if len(line.split()) > 1]
    if len(texts) < MIN_PROBE_TEXTS:
        raise InputError(
            f"The probe {path} holds {len(texts)} passages of at least two words; it needs {MIN_PROBE_TEXTS} or more, "
            "one a line."
        )
    return texts


def _tokenizer_source(source: str) -> str:
    """Where the tokenizer lies: in the model's folder, or for a bare adapter with its base."""
    folder = Path(source)
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not (folder / "tokenizer_config.json").is_file():
        return str(read_json(adapter)["base_model_name_or_path"])
    return source
