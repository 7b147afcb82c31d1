"""Peak memory of real training steps of small models, measured in a process of their own.

`python -m benchmarks.plan_steps '[{"stage": "ppo", "architecture": "llama"}]'` prints one JSON object per step. What
counts is every byte that torch's CPU allocator hands out (the profiler's memory events, summed in order of time), from
before the model is loaded until training has ended. That is the quantity which `torch.cuda.max_memory_allocated` gives
on a GPU: exact to the byte, and independent of the interpreter, of imports and of how the C library returns pages,
which dominate the resident set of a small model. A dispatch mode would miss temporaries inside a kernel; this does not.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """What is trained: sizes in tokens and sequences, as the stage's options name them."""

    stage: str  # sft, reward or ppo
    architecture: str = "llama"  # llama, gpt2, qwen3, gemma2 or opt
    hidden_size: int = 256
    num_hidden_layers: int = 4
    vocab_size: int = 4000
    lora_rank: int | None = 16  # None trains all weights
    batch: int = 8  # sequences per forward and backward pass
    prompt_length: int = 64
    completion_length: int = 64
    rollout: int = 16
    activation_checkpointing: bool = False
    lora_layers: str = "all"
    critic: str = "adapter"
    precision: str = "fp32"


def model_config(step: Step) -> Any:
    """The configuration of the small model."""
    from transformers import Gemma2Config, GPT2Config, LlamaConfig, OPTConfig, Qwen3Config

    hidden, layers, heads = step.hidden_size, step.num_hidden_layers, 4
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    common = {
        "vocab_size": step.vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 512,
        **ids,
    }
    llama_like = {"intermediate_size": 8 * hidden // 3, "num_key_value_heads": 2}
    head = {"head_dim": hidden // heads}
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: LlamaConfig(**common, **llama_like),
        "qwen3": lambda: Qwen3Config(**common, **llama_like, **head, tie_word_embeddings=True),
        "gemma2": lambda: Gemma2Config(
            **common, **llama_like, **head, query_pre_attn_scalar=head["head_dim"]
        ),
        "opt": lambda: OPTConfig(**common, ffn_dim=4 * hidden, word_embed_proj_dim=hidden),
        "gpt2": lambda: GPT2Config(
            vocab_size=step.vocab_size,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=512,
            **ids,
        ),
    }
    return made[step.architecture]()


def save_model(step: Step, folder: Path) -> Any:
    """Write a randomly initialised model with a tokenizer of one token per byte; returns the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.models.demo_model import train_tokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(model_config(step)).save_pretrained(folder)
    tokenizer = train_tokenizer(["x"], 258)
    tokenizer.save_pretrained(folder)
    return tokenizer


def peak_of(run: Callable[[], Any]) -> int:
    """The largest number of bytes that torch's CPU allocator had handed out at once while `run` ran.

    What an earlier training left to the garbage collector goes first: freed inside, it would lower the peak.
    """
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    results = profiled.profiler.kineto_results
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, size in events:
        held += size
        peak = max(peak, held)
    return peak


def sft(step: Step, folder: Path) -> Callable[[], None]:
    from peft import LoraConfig, get_peft_model

    from alignment.models.loading import load_causal_lm, load_tokenizer
    from alignment.training.sft import train_sft

    tokenizer = load_tokenizer(folder)
    text = ("p" * step.prompt_length, "c" * (step.completion_length - 1))

    def run() -> None:
        model = load_causal_lm(folder, step.precision)
        if step.lora_rank:
            lora = LoraConfig(task_type="CAUSAL_LM", r=step.lora_rank, target_modules="all-linear")
            model = get_peft_model(model, lora)
        train_sft(
            model,
            tokenizer,
            [text] * (2 * step.batch),
            learning_rate=1e-4,
            batch_size=step.batch,
            activation_checkpointing=step.activation_checkpointing,
        )

    return run


def reward(step: Step, folder: Path, out: Path) -> Callable[[], None]:
    from alignment.config import RewardTrainingConfig
    from alignment.models.loading import load_tokenizer
    from alignment.records import PreferencePair
    from alignment.training.reward import train_reward

    tokenizer = load_tokenizer(folder)
    length = step.completion_length - 1

    def pair(number: int) -> PreferencePair:
        prompt = f"{number:p>{step.prompt_length}}"
        chosen, rejected = f"{number:c>{length}}", f"{number:r>{length}}"
        ids = (f"p{number}", f"{number}c", f"{number}r")
        return PreferencePair(prompt, chosen, rejected, 0.9, 0.9, *ids)

    pairs = [pair(number) for number in range(2 * step.batch)]
    config = RewardTrainingConfig(
        lora_rank=step.lora_rank or 16,
        lora_layers=step.lora_layers,  # pyright: ignore[reportArgumentType]
        full_finetuning=step.lora_rank is None,
        num_train_epochs=1,
        evaluations=1,
        gradient_checkpointing=step.activation_checkpointing,
        per_device_train_batch_size=step.batch,
    )  # pyright: ignore[reportCallIssue]
    held_out = [pair(number + len(pairs)) for number in range(2)]
    return lambda: train_reward(
        folder, tokenizer, pairs, held_out, config, out, base_precision=step.precision
    )


def ppo(step: Step, folder: Path, out: Path) -> Callable[[], None]:
    from alignment.config import PPOTrainingConfig
    from alignment.models.loading import load_tokenizer
    from alignment.records import Prompt
    from alignment.training.ppo import train_ppo

    reward(replace(step, batch=4, prompt_length=8, completion_length=8), folder, out / "reward")()
    tokenizer = load_tokenizer(folder)
    prompts = [Prompt(f"p{n}", f"{n:p>{step.prompt_length}}") for n in range(step.rollout // 2)]
    config = PPOTrainingConfig(
        lora_rank=step.lora_rank or 16,
        lora_layers=step.lora_layers,  # pyright: ignore[reportArgumentType]
        critic=step.critic,  # pyright: ignore[reportArgumentType]
        gradient_checkpointing=step.activation_checkpointing,
        max_iterations=2,  # Adam's moments are there from the first update on
        batch_size=step.rollout,
        per_device_train_batch_size=step.batch,
        num_mini_batches=1,
        num_ppo_epochs=2,
        response_length=step.completion_length,
    )  # pyright: ignore[reportCallIssue]
    return lambda: train_ppo(
        folder,
        tokenizer,
        out / "reward",
        prompts,
        [],
        config,
        out / "policy",
        base_precision=step.precision,
    )


def measure(step: Step) -> dict[str, Any]:
    """Peak bytes and seconds of the training steps of one stage."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "model", Path(scratch) / "out"
        save_model(step, folder)
        if step.stage == "sft":
            run = sft(step, folder)
        else:
            run = {"reward": reward, "ppo": ppo}[step.stage](step, folder, out)
        started = time.perf_counter()
        peak = peak_of(run)
    return {"peak": peak, "seconds": time.perf_counter() - started}


def measured(steps: list[Step]) -> list[dict[str, Any]]:
    """The peaks of several steps, measured one after the other in one process of their own."""
    named = json.dumps([asdict(step) for step in steps])
    command = [sys.executable, "-m", "benchmarks.plan_steps", named]
    # transformers loads in threads, whose allocations the profiler does not see.
    environment = {**os.environ, "HF_DEACTIVATE_ASYNC_LOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def planned(step: Step) -> dict[str, Any]:
    """What the arithmetic says of a step on a processor, as `Memory.to_json`."""
    from alignment.models.activations import count_activations
    from alignment.models.memory import Setting, plan_memory
    from alignment.models.quantization import training_dtypes
    from alignment.models.shapes import model_shape

    config = model_config(step)
    dtype, autocast = training_dtypes(step.precision, accelerator=False)
    kept = count_activations(config, dtype=dtype, autocast=autocast, lora_rank=step.lora_rank)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        shape = model_shape(folder)
    setting = Setting(
        step.stage,
        precision=step.precision,
        lora_rank=step.lora_rank,
        batch_size=step.batch,
        prompt_length=step.prompt_length,
        completion_length=step.completion_length,
        rollout=step.rollout,
        activation_checkpointing=step.activation_checkpointing,
        critic=step.critic,  # pyright: ignore[reportArgumentType]
        lora_layers=step.lora_layers,
        reward_layers=step.lora_layers,
        accelerator=False,
    )
    return plan_memory(shape, kept, setting).to_json()


if __name__ == "__main__":
    for each in json.loads(sys.argv[1]):
        print(json.dumps(measure(Step(**each))), flush=True)
