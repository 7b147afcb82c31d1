"""`python -m benchmarks.reward --text DIR`: a reward model on real text, ParaDetox pairs, neutral over toxic.

DIR holds `paradetox/paradetox_first9500.tsv.gz` (Logacheva et al. 2022, ACL), which is not part of Concord. A base of
about 3M parameters is trained for a few minutes on sentences of rows that give no pair; the pairs come from other rows,
and a fifth of them is held out.
"""

from __future__ import annotations

import csv
import gzip
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.config import RewardTrainingConfig
from alignment.feedback.pairs import split_by_prompt
from alignment.files import read_json
from alignment.models.demo_model import train_tokenizer
from alignment.models.loading import load_tokenizer
from alignment.records import PreferencePair
from alignment.training.reward import train_reward
from alignment.training.sft import train_sft

PROMPT = "Somebody writes: "
PAIRS, LONGEST = 1500, 30  # rows that give a pair; longest sentence in words


def paradetox(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Accuracy with its interval, calibration, and how long either training took."""
    path = folder / "paradetox" / "paradetox_first9500.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [
            (row["toxic"].strip(), row["neutral1"].strip())
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        ]
    rows = [row for row in rows if all(0 < len(text.split()) <= LONGEST for text in row)]
    rows = [row for row in rows if row[0] != row[1]]
    paired, other = rows[:PAIRS], rows[PAIRS:]
    sentences = [text for row in other for text in row]
    pairs = [
        PreferencePair(PROMPT, neutral, toxic, 1.0, 1.0, f"row-{n}", f"{n}n", f"{n}t")
        for n, (toxic, neutral) in enumerate(paired)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        base, out = Path(scratch) / "base", Path(scratch) / "reward"
        tokenizer = train_tokenizer(sentences, 2048)
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=224,
                intermediate_size=608,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=256,
                initializer_range=0.05,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        started = time.perf_counter()
        train_sft(
            model,
            tokenizer,
            [(PROMPT, text) for text in sentences],
            learning_rate=3e-3,
            batch_size=32,
            completion_only=True,
            seed=seed,
        )
        base_seconds = time.perf_counter() - started
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        config = RewardTrainingConfig(
            learning_rate=2e-3, lora_rank=8, lora_alpha=16, num_train_epochs=4, seed=seed
        )  # pyright: ignore[reportCallIssue]
        train, held_out = split_by_prompt(pairs, config.held_out_fraction, seed)
        started = time.perf_counter()
        result = train_reward(base, load_tokenizer(base), train, held_out, config, out)
        reward_seconds = time.perf_counter() - started
        trust = read_json(out / "trust.json")
    return {
        "accuracy": trust["accuracy"],
        "pairs": {"train": result.train_pairs, "held_out": result.held_out_pairs},
        "length_bias": trust["length_bias"],
        "log_loss": trust["log_loss"],
        "surer_half": trust["uncertainty"]["accuracy_surer_half"],
        "other_half": trust["uncertainty"]["accuracy_other_half"],
        "base_seconds": base_seconds,
        "base_sentences": len(sentences),
        "reward_seconds": reward_seconds,
        "steps": f"best {result.best_step} of {result.steps}",
    }
