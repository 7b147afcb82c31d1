"""The demo base model: trained once on the demo language, kept in the cache folder, remade when its recipe changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.errors import ModelError
from alignment.files import read_json, whole_folder, write_json
from alignment.models.demo_language import sample_corpus
from alignment.models.demo_model import (
    DemoRecipe,
    demo_corpus,
    demo_model_folder,
    train_tokenizer,
    untrained,
)
from alignment.models.likelihood import negative_log_likelihood
from alignment.models.loading import encode_completion, encode_prompt, placed
from alignment.progress import Progress, silent

QUALITY_FILE = "quality.json"
HELD_OUT_UTTERANCES = 500
TOKENIZER_TEXTS = 5000


def ensure_demo_model(progress: Progress = silent, recipe: DemoRecipe | None = None) -> Path:
    """The folder of the demo base model for this recipe and language, training it where it is missing.

    Raises `ModelError` where training ended with a model that does not speak the language.
    """
    recipe = recipe or DemoRecipe()
    folder = demo_model_folder(recipe)
    if not (folder / QUALITY_FILE).exists():
        with whole_folder(folder) as scratch:
            _make(recipe, scratch, progress)
    return folder


def demo_quality(recipe: DemoRecipe | None = None) -> dict[str, float]:
    """Held-out loss of the made model against the entropy of the language, both in nats per completion."""
    return read_json(demo_model_folder(recipe or DemoRecipe()) / QUALITY_FILE)


def _make(recipe: DemoRecipe, folder: Path, progress: Progress) -> None:
    from transformers import set_seed

    from alignment.training.sft import train_sft

    corpus = demo_corpus(recipe)
    tokenizer = train_tokenizer([p + c for p, c in corpus[:TOKENIZER_TEXTS]], recipe.vocab_size)
    set_seed(recipe.seed)
    model = placed(untrained(recipe, tokenizer))
    train_sft(
        model,
        tokenizer,
        corpus,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        completion_only=True,
        seed=recipe.seed,
        label="demo base model",
        progress=progress,
    )
    quality = held_out_quality(model, tokenizer)
    if quality["loss"] > quality["entropy"] + recipe.worst_excess:
        raise ModelError(
            f"The demo base model did not learn its language: {quality['loss']:.1f} nats per completion on held-out "
            f"prompts against an entropy of {quality['entropy']:.1f}. Run it again; if it happens again, please "
            "report it."
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / QUALITY_FILE, quality)


def held_out_quality(
    model: Any, tokenizer: Any, count: int = HELD_OUT_UTTERANCES
) -> dict[str, float]:
    """Mean loss on utterances for held-out prompts, and the language's entropy estimated on the same ones.

    Both in nats per completion; the loss can reach the entropy but, on average, not fall below it.
    """
    held_out = sample_corpus("held-out", count, seed=1)
    prompts = [encode_prompt(tokenizer, prompt) for prompt, _ in held_out]
    completions = [encode_completion(tokenizer, utterance.text) for _, utterance in held_out]
    cost = negative_log_likelihood(model, prompts, completions)
    return {
        "loss": float(cost.mean()),
        "entropy": sum(utterance.surprisal for _, utterance in held_out) / count,
        "tokens": sum(map(len, completions)) / count,
    }
