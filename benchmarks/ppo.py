"""Concord's PPO against TRL 1.12's trainer, the last that TRL had: `make bench-ppo`, or `python -m benchmarks.ppo`.

A randomly initialised Llama-style model of 30M parameters, batch 32 in micro-batches of 8, 48 new tokens, 2 epochs.
Each measurement is a process of its own; the contestants take turns, and medians are compared. Peak memory is resident
memory less what the bare imports hold. The peer wants an environment of its own:

    python -m venv .peer && .peer/bin/pip install torch==2.13.0 trl==1.12.0 peft datasets accelerate pandas rich
    python -m benchmarks.ppo --peer-python .peer/bin/python

Without --peer-python the default .peer/bin/python is used. Absolute figures differ from machine to machine; ratios of
one sitting are what counts.
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

TARGETS = {
    "head_speedup": 2.0,
    "adapter_speedup": 1.6,
    "memory_ratio": 0.40,
    "sft_memory_ratio": 1.25,
}
LOGITS_GROWTH = 0.25  # of what a tensor of batch x length x vocabulary grows by
PROMPTS = ["the cat sat on the mat and said", "what a lovely day thank you", "you are a", "thank"]
PEER = Path(__file__).with_name("ppo_peer.py")
SHAPE = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408}
VOCABULARY = 8192
OURS = {"head": {"critic": "head"}, "adapter": {"critic": "adapter"}}


def main() -> None:
    """Measure, print the table, and fail where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one run of each, two iterations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer-python", type=Path, default=Path(".peer/bin/python"))
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument(
        "--vocabulary", action="store_true", help="only: peak memory against vocabulary"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_one(json.loads(arguments.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.vocabulary:
            figures = vocabulary_growth(Path(folder), arguments.seed, arguments.threads)
        else:
            figures = compare(Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in figures.items() if isinstance(value, float)}))
    if figures.get("missed"):
        print("Missed: " + ", ".join(figures["missed"]), file=sys.stderr)
        sys.exit(1)


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All contestants in turns; the ratios of their medians."""
    if not arguments.peer_python.exists():
        sys.exit(
            f"{arguments.peer_python} is not there; see --help for how to make the peer's environment."
        )
    runs, episodes = (1, 64) if arguments.quick else (arguments.runs, 96)
    settings = _settings(folder, arguments.seed, episodes, VOCABULARY)
    _prepare(settings, arguments.threads)
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for rollout in (8, 32):
            row = _peer(arguments.peer_python, {**settings, "rollout": rollout}, arguments.threads)
            _keep(found, f"peer, rollout {rollout}", row)
        for name, options in OURS.items():
            row = _ours({**settings, "what": "ppo", "options": options}, arguments.threads)
            _keep(found, name, row)
        _keep(found, "LoRA SFT", _ours({**settings, "what": "sft"}, arguments.threads))
    medians = {
        name: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    peers = [row for name, row in medians.items() if name.startswith("peer")]
    best = max(peers, key=lambda row: row["episodes_per_s"])
    memory = {name: medians[name]["peak_mb_less_imports"] for name in OURS}
    figures: dict[str, Any] = {
        f"{name}_speedup": medians[name]["episodes_per_s"] / best["episodes_per_s"] for name in OURS
    }
    for name in OURS:  # less disturbed by what else the machine does
        best_cpu = max(row["episodes_per_cpu_s"] for row in peers)
        figures[f"{name}_speedup_cpu"] = medians[name]["episodes_per_cpu_s"] / best_cpu
    figures["memory_ratio"] = max(memory.values()) / best["peak_mb_less_imports"]
    figures["sft_memory_ratio"] = max(memory.values()) / medians["LoRA SFT"]["peak_mb_less_imports"]
    figures["missed"] = [
        f"{key} {figures[key]:.2f} (target {target})"
        for key, target in TARGETS.items()
        if (figures[key] < target if "speedup" in key else figures[key] > target)
    ]
    figures |= {
        "medians": medians,
        "runs": found,
        "threads": arguments.threads,
        "seed": arguments.seed,
    }
    _print_table(medians)
    return figures


def _keep(found: dict[str, list[dict[str, float]]], name: str, row: dict[str, float]) -> None:
    found.setdefault(name, []).append(row)
    rounded = {key: round(value, 2) for key, value in row.items()}
    print(f"{name}: {json.dumps(rounded)}", file=sys.stderr, flush=True)


def _print_table(medians: dict[str, dict[str, float]]) -> None:
    print(
        "| | episodes/s | per CPU second | peak MB less imports | generation s | scoring s | update s |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, row in medians.items():
        phases = " | ".join(
            f"{row[key]:.2f}" if key in row else "-"
            for key in ("seconds_generation", "seconds_scoring", "seconds_update")
        )
        speed = f"{row['episodes_per_s']:.2f} | {row.get('episodes_per_cpu_s', 0):.2f}"
        print(f"| {name} | {speed} | {row['peak_mb_less_imports']:.0f} | {phases} |")


def vocabulary_growth(folder: Path, seed: int, threads: int) -> dict[str, Any]:
    """Peak memory over the vocabulary, beside the embedding and a tensor of batch x length x vocabulary.

    The tiles of logits are at most 32,768 words wide, so that between the two largest vocabularies the peak may grow by
    the embedding alone; `logits_growth` is what it grew beyond that, as a share of the growth of such a tensor.
    """
    rows = {}
    for vocabulary in (8192, 32768, 65536):
        settings = _settings(folder / str(vocabulary), seed, 32, vocabulary)
        _prepare(settings, threads)
        row = _ours({**settings, "what": "ppo", "options": OURS["head"]}, threads)
        rows[vocabulary] = {
            "peak_mb_less_imports": row["peak_mb_less_imports"],
            "embedding_mb": vocabulary * SHAPE["hidden_size"] * 4 / 2**20,
            "batch_x_length_x_vocabulary_mb": settings["batch"]
            * settings["response"]
            * vocabulary
            * 4
            / 2**20,
        }
        print(vocabulary, json.dumps(rows[vocabulary]), flush=True)
    before, after = rows[32768], rows[65536]
    grew = {key: after[key] - before[key] for key in after}
    beyond = grew["peak_mb_less_imports"] - grew["embedding_mb"]
    share = beyond / grew["batch_x_length_x_vocabulary_mb"]
    missed = ["logits_growth"] if share > LOGITS_GROWTH else []
    return {"vocabulary": rows, "logits_growth": share, "missed": missed}


def _settings(folder: Path, seed: int, episodes: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model": str(folder / "model"),
        "reward": str(folder / "reward"),
        "out": str(folder),
        "prompts": PROMPTS,
        "episodes": episodes,
        "batch": 32,
        "micro": 8,
        "mini_batches": 4,
        "epochs": 2,
        "response": 48,
        "rank": 8,
        "seed": seed,
        "vocabulary": vocabulary,
    }


def _process(command: list[str], threads: int) -> dict[str, float]:
    """Run one measurement in a process of its own and return the JSON of its last line."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _ours(settings: dict[str, Any], threads: int) -> dict[str, float]:
    return _process(
        [sys.executable, "-m", "benchmarks.ppo", "--one", json.dumps(settings)], threads
    )


def _peer(python: Path, settings: dict[str, Any], threads: int) -> dict[str, float]:
    return _process([str(python), str(PEER), json.dumps(settings)], threads)


def _prepare(settings: dict[str, Any], threads: int) -> None:
    _ours({**settings, "what": "prepare"}, threads)


def _one(settings: dict[str, Any]) -> dict[str, float]:
    return {"prepare": _make_models, "ppo": _time_ppo, "sft": _time_sft}[settings["what"]](settings)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _make_models(settings: dict[str, Any]) -> dict[str, float]:
    """The base with its tokenizer, and a reward adapter on the upper half of it, as little trained as it can be."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from alignment.config import RewardTrainingConfig
    from alignment.models.demo_model import train_tokenizer
    from alignment.records import PreferencePair
    from alignment.training.reward import train_reward

    torch.manual_seed(settings["seed"])
    tokenizer = train_tokenizer(PROMPTS * 3, 300)
    config = LlamaConfig(
        vocab_size=settings["vocabulary"],
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    folder = Path(settings["model"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pairs = [
        PreferencePair(p, " thank you", " a mat", 0.9, 0.9, f"p{i}", f"{i}k", f"{i}r")
        for i, p in enumerate(PROMPTS)
    ]
    options = RewardTrainingConfig(
        lora_rank=settings["rank"],
        lora_alpha=16,
        num_train_epochs=1,
        lora_layers="upper-half",
        seed=settings["seed"],
    )  # pyright: ignore[reportCallIssue]
    train_reward(folder, tokenizer, pairs[:3], pairs[3:], options, Path(settings["reward"]))
    return {}


def _time_ppo(settings: dict[str, Any]) -> dict[str, float]:
    from alignment.config import PPOTrainingConfig
    from alignment.models.loading import load_tokenizer
    from alignment.records import Prompt
    from alignment.training.ppo import train_ppo
    from alignment.training.ppo_trainer import PPOTrainer
    from alignment.training.ppo_watch import read_rows

    imports_mb = _peak_mb()
    config = PPOTrainingConfig(
        max_iterations=settings["episodes"] // settings["batch"],
        batch_size=settings["batch"],
        per_device_train_batch_size=settings["micro"],
        num_mini_batches=settings["mini_batches"],
        num_ppo_epochs=settings["epochs"],
        response_length=settings["response"],
        learning_rate=1e-5,
        lora_rank=settings["rank"],
        lora_alpha=16,
        lora_layers="upper-half",
        save_every=1000,
        seed=settings["seed"],
        **settings["options"],
    )  # pyright: ignore[reportCallIssue]
    prompts = [Prompt(f"p{i}", PROMPTS[i % len(PROMPTS)]) for i in range(settings["batch"])]
    folder = Path(settings["model"])
    spent: dict[str, float] = {}
    whole = PPOTrainer.train

    def timed(trainer: Any, **options: Any) -> Any:  # as the peer is timed: the training alone
        started, cpu = time.perf_counter(), time.process_time()
        result = whole(trainer, **options)
        spent["seconds"] = time.perf_counter() - started
        spent["cpu_seconds"] = time.process_time() - cpu
        return result

    PPOTrainer.train = timed
    with tempfile.TemporaryDirectory(dir=settings["out"]) as out:
        reward = Path(settings["reward"])
        train_ppo(folder, load_tokenizer(folder), reward, prompts, [], config, Path(out))
        rows = read_rows(Path(out) / "metrics.jsonl")
    phases = ("seconds_generation", "seconds_scoring", "seconds_update")
    return {
        "episodes_per_s": settings["episodes"] / spent["seconds"],
        "episodes_per_cpu_s": settings["episodes"] / spent["cpu_seconds"],
        "peak_mb_less_imports": _peak_mb() - imports_mb,
        **{phase: statistics.mean(row[phase] for row in rows) for phase in phases},
    }


def _time_sft(settings: dict[str, Any]) -> dict[str, float]:
    """LoRA supervised training of the same base, micro-batch, rank and lengths, with TRL's SFTTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    imports_mb = _peak_mb()
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    generator = torch.Generator().manual_seed(settings["seed"])
    rows = torch.randint(
        3,
        settings["vocabulary"],
        (settings["episodes"], longest + settings["response"]),
        generator=generator,
    ).tolist()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=out,
                per_device_train_batch_size=settings["micro"],
                max_steps=settings["episodes"] // settings["micro"],
                gradient_checkpointing=False,
                bf16=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=settings["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        trainer.train()
    return {
        "episodes_per_s": settings["episodes"] / (time.perf_counter() - started),
        "peak_mb_less_imports": _peak_mb() - imports_mb,
    }


if __name__ == "__main__":
    main()
