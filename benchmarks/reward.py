"""The reward trainer against TRL's own on the same pairs, and its trust figures: `make bench-reward`.

Speed (the default): the same prompts, completions and pairs, the same base model and LoRA adapter, the same budget of
sequences per batch, one epoch each. TRL's `RewardTrainer` encodes both completions of every pair; Concord's encodes
each completion of a prompt once. Each trainer runs in a process of its own, so that peak memories can be told apart, in
turn and several times; the median counts. `--json FILE` writes `speedup_k4`, `speedup_k9`, `memory_ratio` and all runs.

`--demo`: accuracy, ceiling and calibration on the demo language, soft against hard labels.
`--labels`: what labels are worth: consensus, majority and true ones, of four pools of labelers.
`--text DIR`: ParaDetox pairs in DIR, neutral over toxic, on a base model trained for a few minutes on such text.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alignment.files import write_json

SEQUENCES = 36  # per batch: 18 pairs for TRL, 36 completions for Concord
REPEATS = 3
PROMPTS = {4: 27, 9: 8}
GOALS = {"speedup_k4": 1.8, "speedup_k9": 4.0, "memory_ratio": 1.0}
MEMORY_TOLERANCE = 1.02  # of the resident set, whose measure is that coarse


def make_pairs(k: int, prompts: int, seed: int = 0) -> list[Any]:
    """All pairs among `k` completions of each prompt, in the demo language."""
    import numpy as np

    from alignment.models.demo_language import sample_corpus
    from alignment.records import PreferencePair

    rng = np.random.default_rng(seed)
    texts = list(dict.fromkeys(text.text for _, text in sample_corpus("train", 4000, seed)))
    pairs = []
    for p in range(prompts):
        chosen = [texts[i] for i in rng.choice(len(texts), k, replace=False)]
        pairs += [
            PreferencePair(f"Person {p} asks how the day was.", a, b, 1.0, 1.0, f"p{p}", a, b)
            for i, a in enumerate(chosen)
            for b in chosen[i + 1 :]
        ]
    return pairs


def make_base(folder: Path) -> None:
    """A randomly initialised Llama-style base of about 6M parameters with the demo language's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from alignment.models.demo_language import sample_corpus
    from alignment.models.demo_model import train_tokenizer

    corpus = [prompt + text.text for prompt, text in sample_corpus("train", 3000, 0)]
    tokenizer = train_tokenizer(corpus, 1024)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def one(kind: str, base: Path, k: int) -> dict[str, float]:
    """Train one epoch in this process; pairs per second and the peak memory it took beyond loading."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    from alignment.config import RewardTrainingConfig
    from alignment.models.loading import load_tokenizer
    from alignment.training import reward_run
    from alignment.training.reward_groups import group_pairs
    from alignment.training.reward_trainer import GroupRewardTrainer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(base)
    pairs = make_pairs(k, PROMPTS[k])
    groups, _ = group_pairs(tokenizer, pairs, 256)
    config = RewardTrainingConfig(
        num_train_epochs=1, per_device_train_batch_size=SEQUENCES, lora_rank=8, lora_alpha=16
    )  # pyright: ignore[reportCallIssue]
    with tempfile.TemporaryDirectory() as scratch:
        common: dict[str, Any] = {
            "output_dir": scratch,
            "num_train_epochs": 1,
            "learning_rate": 1e-4,
            "gradient_checkpointing": False,
            "bf16": False,
            "max_length": None,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "logging_steps": 10,
        }
        if kind == "trl":
            rows = [
                {"chosen_ids": group.input_ids[i], "rejected_ids": group.input_ids[j]}
                for group in groups
                for i, j in zip(group.first, group.second, strict=True)
            ]
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
            trainer: Any = RewardTrainer(
                model=model,
                args=RewardConfig(**common, per_device_train_batch_size=SEQUENCES // 2),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=reward_run.lora(model, config),
            )
        else:
            model = reward_run.load_classifier(base, tokenizer, config.ensemble_heads)
            trainer = GroupRewardTrainer(
                model=model,
                args=RewardConfig(**common, per_device_train_batch_size=1, disable_dropout=False),
                train_dataset=Dataset.from_list(reward_run.training_rows(groups, config)),
                validation=[],
                completions_per_batch=SEQUENCES,
                margin=0.0,
                processing_class=tokenizer,
                peft_config=reward_run.lora(model, config),
            )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, worked = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "pairs_per_second": len(pairs) / seconds,
        "pairs_per_cpu_second": len(pairs) / worked,
        "seconds": seconds,
        "memory_mib": peak / 1024,
        "training_memory_mib": (peak - before) / 1024,
    }


def speed(repeats: int) -> dict[str, Any]:
    """All runs, and the figures of the comparison."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base)
        for repeat in range(repeats):
            for k in PROMPTS:
                for kind in ("trl", "concord") if repeat % 2 == 0 else ("concord", "trl"):
                    command = [sys.executable, "-m", "benchmarks.reward", "--one", kind]
                    command += ["--base", str(base), "--k", str(k)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    figures = json.loads(done.stdout.strip().splitlines()[-1])
                    runs.append({"kind": kind, "k": k, **figures})
                    print(f"K={k} {kind}: {figures}", flush=True)

    def median(kind: str, key: str, k: int) -> float:
        return statistics.median(r[key] for r in runs if (r["kind"], r["k"]) == (kind, k))

    def ratio(key: str, k: int) -> float:
        return median("concord", key, k) / median("trl", key, k)

    return {
        "speedup_k4": ratio("pairs_per_second", 4),
        "speedup_k9": ratio("pairs_per_second", 9),
        "cpu_speedup_k4": ratio("pairs_per_cpu_second", 4),
        "cpu_speedup_k9": ratio("pairs_per_cpu_second", 9),
        "memory_ratio": max(ratio("memory_mib", k) for k in PROMPTS),
        "training_memory_ratio": max(ratio("training_memory_mib", k) for k in PROMPTS),
        "runs": runs,
    }


def main() -> None:
    """Parse, run, print, and exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, or one seed")
    parser.add_argument("--seed", type=int, help="only this seed of --demo or --labels")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--demo", action="store_true", help="trust figures on the demo language")
    parser.add_argument("--labels", action="store_true", help="what kinds of labels are worth")
    parser.add_argument("--text", type=Path, help="folder of the ParaDetox pairs")
    for name in ("--one", "--base"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments.one:
        print(json.dumps(one(arguments.one, Path(arguments.base), arguments.k)))
        return
    if arguments.text:
        from benchmarks.reward_text import paradetox

        figures, reached = paradetox(arguments.text), True
    elif arguments.demo or arguments.labels:
        from benchmarks.reward_labels import labels
        from benchmarks.reward_trust import demo

        seeds = [0] if arguments.quick else [0, 1, 2]
        seeds = seeds if arguments.seed is None else [arguments.seed]
        figures, reached = demo(seeds) if arguments.demo else labels(seeds)
    else:
        figures = speed(1 if arguments.quick else REPEATS)
        limits = {**GOALS, "memory_ratio": MEMORY_TOLERANCE}
        reached = all(
            figures[name] <= limit if name == "memory_ratio" else figures[name] >= limit
            for name, limit in limits.items()
        )
    shown = {name: value for name, value in figures.items() if name != "runs"}
    print(json.dumps(shown, indent=2))
    if arguments.json:
        write_json(arguments.json, figures)
    if not reached:
        print("A goal was missed.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
