"""Tiny models and tokenizers made on the spot, several architectures; nothing is downloaded."""

import os

# Before any test imports a library: offline, silent, and threads that sleep while they wait.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ARCHITECTURES = ("llama", "gpt2", "qwen3", "gemma2", "opt")
SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_tokenizer():
    from alignment.models.demo_model import train_tokenizer

    return train_tokenizer(["You are kind. You are rude. What a lovely day, thank you!"] * 3, 300)


def tiny_causal_lm(architecture: str, seed: int = 0):
    """A randomly initialised causal LM of 32 hidden units and two layers."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        Gemma2Config,
        GPT2Config,
        LlamaConfig,
        OPTConfig,
        Qwen3Config,
    )

    torch.manual_seed(seed)
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    llama_like = {"intermediate_size": 64, "num_key_value_heads": 1, "max_position_embeddings": 128}
    config = {
        "llama": lambda: LlamaConfig(**SMALL, **llama_like, **ids),
        "qwen3": lambda: Qwen3Config(**SMALL, **llama_like, **ids, head_dim=16),
        "gemma2": lambda: Gemma2Config(
            **SMALL, **llama_like, **ids, head_dim=16, query_pre_attn_scalar=16
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=128, **ids
        ),
        "opt": lambda: OPTConfig(
            **SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128, **ids
        ),
    }[architecture]()
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny_model_folder(request, tmp_path_factory, tokenizer):
    """The folder of a tiny model, once for each architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_causal_lm(request.param).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory, tokenizer):
    """The folder of a tiny Llama."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_causal_lm("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
