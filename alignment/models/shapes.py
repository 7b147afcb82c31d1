"""The sizes of a causal LM, read off its configuration alone: no weights are loaded or downloaded.

A model is named by a folder, a hub id, or a size of the Llama family such as `7B`. Parameters are counted exactly by
building the model on torch's meta device, whatever its architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.pytorch_utils import Conv1D

from alignment.errors import ModelError, nearest
from alignment.models.demo_model import DemoRecipe
from alignment.models.loading import context_window
from alignment.models.lora import decoder_layers

# Published shapes of Llama models (their config.json): hidden, intermediate, layers, heads, key-value heads, head size,
# vocabulary, whether the head is the embedding.
SIZES = {
    "1B": (2048, 8192, 16, 32, 8, 64, 128256, True),  # Llama 3.2 1B
    "3B": (3072, 8192, 28, 24, 8, 128, 128256, True),  # Llama 3.2 3B
    "7B": (4096, 11008, 32, 32, 32, 128, 32000, False),  # Llama 2 7B
    "8B": (4096, 14336, 32, 32, 8, 128, 128256, False),  # Llama 3.1 8B
    "13B": (5120, 13824, 40, 40, 40, 128, 32000, False),  # Llama 2 13B
    "70B": (8192, 28672, 80, 64, 8, 128, 128256, False),  # Llama 3.1 70B
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in elements; parameters that are tied count once."""

    name: str
    model_type: str
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    parameters: int  # all of the causal LM
    layer_parameters: int  # of the largest decoder layer
    linear_parameters: int  # weights of the linear layers inside the decoder: what is quantised
    linear_rows: int  # outputs of those linear layers: each row has a scale of its own in 8 bit
    head_parameters: int  # of an output layer that is not tied to the embedding, else 0
    key_value_size: int  # keys and values of one token in one layer
    attention_size: int  # queries of one token in one layer: heads x head size
    widest: int  # the widest output of a linear layer in the decoder
    max_length: int | None  # the context window in tokens


def model_config(name: str | Path) -> Any:
    """The configuration of a folder, a hub id, `demo`, or a size such as `7B`.

    Raises `ModelError` where there is none, saying what would do.
    """
    size = str(name).upper()
    if size in SIZES:
        return _llama(*SIZES[size])
    if name == "demo":
        recipe = DemoRecipe()
        return LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_hidden_layers,
            num_attention_heads=recipe.num_attention_heads,
            max_position_embeddings=recipe.max_position_embeddings,
            tie_word_embeddings=True,
        )
    try:
        return AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError, KeyError) as error:
        sizes = ", ".join(SIZES)
        raise ModelError(
            f"There is no configuration of a model {str(name)!r}{nearest(size, list(SIZES)) or ''}: it is no folder "
            f"with a config.json, no size of the Llama family ({sizes}), and no hub id that can be reached from here. "
            "Give one of these; on a machine without the hub, copy the model's config.json into a folder: a plan needs "
            "nothing else."
        ) from error


def _llama(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    head_size: int,
    vocabulary: int,
    tied: bool,
) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_size,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=4096 if vocabulary == 32000 else 131072,
    )


def model_shape(name: str | Path) -> ModelShape:
    """Exact sizes of a model. Raises `ModelError` where its architecture is no causal LM."""
    config = model_config(name)
    model = on_meta(config)
    layers = decoder_layers(model)
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)]
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    own_head = output is not None and output.weight is not embedding.weight
    rows = [m.nf if isinstance(m, Conv1D) else m.out_features for m in linears]
    return ModelShape(
        name=str(name),
        model_type=text.model_type,
        num_hidden_layers=len(layers),
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        parameters=sum(p.numel() for p in model.parameters()),
        layer_parameters=max(sum(p.numel() for p in layer.parameters()) for layer in layers),
        linear_parameters=sum(m.weight.numel() for m in linears),
        linear_rows=sum(rows),
        head_parameters=text.vocab_size * text.hidden_size if own_head else 0,
        key_value_size=2 * key_value_heads * head_size,
        attention_size=heads * head_size,
        widest=max(rows),
        max_length=context_window(config),
    )


def on_meta(config: Any, **options: Any) -> Any:
    """The model of a configuration without storage for its weights."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **options)
    except ValueError as error:
        raise ModelError(
            f"The architecture {config.model_type!r} is not a causal language model that transformers knows. Give the "
            "configuration of a decoder such as Llama, Qwen, Gemma, GPT-2 or OPT."
        ) from error
