"""The demo base model: a Llama-style causal LM of about 2M parameters and its own byte-level BPE tokenizer.

This module holds the recipe and the cache; `alignment.pipeline.demo_base_model` trains it once.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.models.demo_language import load_grammar, sample_corpus
from alignment.models.loading import eos_id, pad_id

EOS, PAD = "<|end|>", "<|pad|>"


@dataclass(frozen=True, slots=True)
class DemoRecipe:
    """All that decides what the demo base model becomes, beside the grammar."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 256
    initializer_range: float = 0.06  # 0.02, the default, needs twice the steps at this width
    sentences: int = 28_000
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0
    worst_excess: float = (
        4.0  # nats per completion above the language's entropy: more is a failed training
    )
    version: int = 1  # raised when the code that makes the model changes what it makes


def cache_folder() -> Path:
    """Where made models are kept: $CONCORD_CACHE, or the user's cache folder."""
    return Path(os.environ.get("CONCORD_CACHE") or platformdirs.user_cache_dir("concord"))


def demo_model_folder(recipe: DemoRecipe) -> Path:
    """The folder for this recipe and grammar: another recipe is another folder, so a change remakes the model."""
    key = json.dumps(asdict(recipe), sort_keys=True) + load_grammar().source
    return cache_folder() / f"demo-model-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) with tokens for end and padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def untrained(recipe: DemoRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The randomly initialised model; the caller sets the seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        initializer_range=recipe.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_id(tokenizer),
        pad_token_id=pad_id(tokenizer),
    )
    return LlamaForCausalLM(config)


def demo_corpus(recipe: DemoRecipe) -> list[tuple[str, str]]:
    """The training half of the language as (prompt, completion) texts."""
    return [(p, u.text) for p, u in sample_corpus("train", recipe.sentences, recipe.seed)]
