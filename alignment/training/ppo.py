"""`concord train ppo`: align a LoRA policy against a reward model, and say why training ended."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl.trainer.grpo_config import GRPOConfig

from alignment.config import GenerationConfig, PPOTrainingConfig
from alignment.errors import InputError, TrainingError
from alignment.files import disk_errors, write_json
from alignment.models.distributed import main_folder, world_size
from alignment.models.loading import (
    check_prompt_lengths,
    context_window,
    encode_prompt,
    load_causal_lm,
    turn_off_dropout,
)
from alignment.models.trunk import Trunk
from alignment.progress import Progress, silent
from alignment.records import Prompt
from alignment.sampling import sample_completions
from alignment.training import ppo_math
from alignment.training.callbacks import append_jsonl, finite, without_printing
from alignment.training.ppo_trainer import PPOTrainer, score_sequences
from alignment.training.sharding import own_units

POLICY_FILE = "policy.json"
# What TRL logs under other names, or for trainers that PPO is not.
_FROM_TRL = {
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "completions/mean_length": "mean_length",
    "completions/max_length": "max_length",
}


@dataclass(frozen=True, slots=True)
class PPOResult:
    """How the run went and why it ended. Rewards are in standard deviations of the reward model's scores."""

    stop_reason: str
    iterations: int
    reward_first: float
    reward_last: float
    kl: float
    explained_variance: float | None
    eval_reward: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_ppo(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    reward_folder: Path,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    config: PPOTrainingConfig,
    out: Path,
    progress: Progress = silent,
) -> PPOResult:
    """Train a policy adapter on `prompts`, watching the mean reward on `held_out`, and save it to `out`.

    Writes one line per iteration to `out/metrics.jsonl`. Raises `InputError` on too few or too long prompts,
    `ModelError` on a reward model of another base, `TrainingError` where an invariant or the reward breaks.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    base_model = load_causal_lm(base)
    turn_off_dropout(base_model)
    trunk = Trunk(
        base_model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=0.0,
            target_modules=config.lora_target_modules,
        ),
    )
    trunk.load_reward(reward_folder)
    trunk.add_value()
    per_rollout = config.batch_size // config.completions_per_prompt
    if len(prompts) < per_rollout:
        raise InputError(
            f"A rollout takes {per_rollout} prompts ({config.batch_size} episodes of {config.completions_per_prompt} "
            f"per prompt), but there are {len(prompts)}. Add prompts, or lower ppo.batch_size."
        )
    window = context_window(trunk.base.config)
    everyone = [*prompts, *held_out]
    lengths = [encode_prompt(tokenizer, prompt.prompt) for prompt in everyone]
    check_prompt_lengths(lengths, config.response_length, window, [p.prompt_id for p in everyone])
    watch = _Watch(trunk, tokenizer, held_out[: config.eval_prompts], config, out, progress)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PPOTrainer(
            trunk,
            config,
            args=_arguments(config, scratch),
            train_dataset=Dataset.from_list([{"prompt": prompt.prompt} for prompt in prompts]),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        own_units(trainer, "ScalarHead")
        without_printing(trainer).train()
    result = watch.result()
    with main_folder(out) as folder:
        trunk.save_policy(folder)
        tokenizer.save_pretrained(str(folder))
        about = {"base_model": str(base), "reward_model": str(reward_folder)}
        write_json(
            folder / POLICY_FILE, {**result.to_json(), **about, "config": config.model_dump()}
        )
    return result


def _arguments(config: PPOTrainingConfig, scratch: str) -> GRPOConfig:
    micro_batches = config.batch_size // world_size() // config.per_device_train_batch_size
    updates = config.num_ppo_epochs * config.num_mini_batches
    return GRPOConfig(
        output_dir=scratch,
        max_steps=config.max_iterations * updates,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=micro_batches // config.num_mini_batches,
        steps_per_generation=micro_batches,
        num_iterations=config.num_ppo_epochs,
        num_generations=config.completions_per_prompt,
        max_completion_length=config.response_length,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        beta=0.0,  # the KL penalty is in the reward, never also in the loss
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=updates,
        max_grad_norm=config.max_grad_norm,
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=False,
        logging_steps=updates,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class _Watch(TrainerCallback):
    """After each iteration: write its figures, tell progress, evaluate now and then, and decide whether to stop."""

    def __init__(
        self,
        trunk: Trunk,
        tokenizer: PreTrainedTokenizerBase,
        held_out: Sequence[Prompt],
        config: PPOTrainingConfig,
        out: Path,
        progress: Progress,
    ) -> None:
        self.trunk, self.tokenizer, self.held_out = trunk, tokenizer, held_out
        self.config, self.path, self.progress = config, out / "metrics.jsonl", progress
        self.rows: list[dict[str, Any]] = []
        self.eval_reward: float | None = None
        self.stop_reason = "maximum iterations"

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.evaluate(0)  # only now is the model where it trains, sharded or not

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not logs or "policy_loss" not in logs:  # the summary at the end of training
            return
        iteration = round(
            state.global_step / (self.config.num_ppo_epochs * self.config.num_mini_batches)
        )
        row = {"iteration": iteration, **iteration_figures(logs)}
        if any(not np.isfinite(logs[key]) for key in ("policy_loss", "value_loss", "kl")):
            raise TrainingError(
                f"A loss of iteration {iteration} is not a number. Lower ppo.learning_rate or ppo.reward_clip; the run "
                "was stopped and marked failed."
            )
        if iteration % self.config.eval_every == 0:
            row |= self.evaluate(iteration)
        self.rows.append(row)
        append_jsonl(self.path, row)
        note = f"reward {row['reward']:+.2f}  kl {row['kl']:.2f}"
        self.progress("PPO", iteration, self.config.max_iterations, note)
        self._decide(row, control)

    def _decide(self, row: dict[str, Any], control: Any) -> None:
        threshold, limit = self.config.reward_threshold, self.config.max_kl
        low = row.get("eval_reward_low")
        if threshold is not None and low is not None and low >= threshold:
            self.stop_reason = "reward threshold"
            control.should_training_stop = True
        elif limit is not None and row["kl"] > limit:
            self.stop_reason = "KL limit"
            control.should_training_stop = True

    def evaluate(self, iteration: int) -> dict[str, float]:
        """Mean normalised reward on the held-out prompts, with its lower 95% bound (one-sided, normal)."""
        if not self.held_out:
            return {}
        generation = GenerationConfig(
            max_new_tokens=self.config.response_length,
            temperature=self.config.temperature,
            seed=self.config.seed + iteration,
        )  # pyright: ignore[reportCallIssue]
        was_training = self.trunk.model.training
        self.trunk.model.eval()
        drawn = sample_completions(self.trunk.model, self.tokenizer, self.held_out, generation, 1)
        self.trunk.model.train(was_training)
        sequences = [
            torch.tensor([*encode_prompt(self.tokenizer, prompt.prompt), *group[0].ids])
            for prompt, group in zip(self.held_out, drawn, strict=True)
        ]
        raw = score_sequences(self.trunk, sequences, self.config.per_device_train_batch_size)
        finished = torch.tensor([group[0].finished for group in drawn])
        scale, config = self.trunk.scale, self.config
        scores = ppo_math.normalised_scores(
            raw, finished, scale.mean, scale.std, config.reward_clip, config.missing_eos_penalty
        ).numpy()
        self.eval_reward = float(scores.mean())
        error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else 0.0
        return {
            "eval_reward": self.eval_reward,
            "eval_reward_low": self.eval_reward - 1.645 * error,
        }

    def result(self) -> PPOResult:
        """The figures of the whole run."""
        if not self.rows:
            raise TrainingError("PPO ended before its first iteration was complete.")
        first, last = self.rows[0], self.rows[-1]
        return PPOResult(
            self.stop_reason,
            last["iteration"],
            first["reward"],
            last["reward"],
            last["kl"],
            last.get("explained_variance"),
            self.eval_reward,
        )


def iteration_figures(logs: dict[str, Any]) -> dict[str, float]:
    """Our figures of one iteration out of all that TRL logs, under our names."""
    own = (
        "kl",
        "policy_loss",
        "value_loss",
        "entropy",
        "clip_fraction",
        "value_clip_fraction",
        "approx_kl",
        "explained_variance",
        "finished",
        "seconds_generation",
        "seconds_scoring",
        "step_time",
    )
    figures = {
        "reward": logs["reward_score"],
        **{key: logs[key] for key in own if logs.get(key) is not None},
    }
    figures |= {ours: logs[theirs] for theirs, ours in _FROM_TRL.items() if theirs in logs}
    return finite({key: float(value) for key, value in figures.items()})
