"""`concord train ppo`: align a LoRA policy against a reward, and say why training ended."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl.trainer.grpo_config import GRPOConfig

from alignment.config import PPOTrainingConfig
from alignment.errors import ConfigError, InputError
from alignment.evaluation.toxicity import load_scorer
from alignment.files import disk_errors, read_json
from alignment.models.distributed import world_size
from alignment.models.loading import (
    check_prompt_lengths,
    context_window,
    encode_prompt,
    load_causal_lm,
    load_tokenizer,
    turn_off_dropout,
)
from alignment.models.lora import lora_config
from alignment.models.quantization import keep_trained_in_float32, mixed_precision
from alignment.models.trunk import Trunk
from alignment.progress import Progress, silent
from alignment.records import Prompt
from alignment.training.callbacks import without_printing
from alignment.training.checkpoints import begin
from alignment.training.out_of_memory import memory_errors, smaller_base
from alignment.training.ppo_reward import load_rewards
from alignment.training.ppo_state import STATE_FILE
from alignment.training.ppo_trainer import PPOTrainer
from alignment.training.ppo_watch import METRICS_FILE, PPOResult, Watch, read_rows, save_policy
from alignment.training.sharding import own_units
from alignment.training.vllm import vllm_arguments

CHECKPOINTS_FOLDER = "checkpoints"


def train_ppo(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    reward_folder: Path | None,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    config: PPOTrainingConfig,
    out: Path,
    progress: Progress = silent,
    *,
    resume: bool = False,
    base_precision: str = "fp32",
) -> PPOResult:
    """Train a policy adapter on `prompts`, watching it on `held_out`, and save it to `out`.

    Writes one line per iteration to `out/metrics.jsonl`, sample completions to `samples.jsonl`, checkpoints to
    `checkpoints/`, and the best policy by the held-out judge to `best/`. A file `out/stop` ends the run after the
    iteration under way. With `resume` it goes on from the last complete checkpoint in `out`, or from the beginning
    where there is none. `reward_folder` may be None where no term of the reward is the reward model.

    Raises `InputError` on too few or too long prompts or a full disk, `ModelError` on a reward model of another base,
    `ConfigError` on rewards that cannot be had, `TrainingError` where an invariant or the reward breaks, the
    checkpoint is of other data or options, or memory runs out.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    _check_reporters(config)
    _check_precision(config, base_precision)
    _check_prompt_count(prompts, config)
    set_seed(config.seed)
    with memory_errors(_memory_advice(config, base_precision)):
        trunk = _trunk(base, tokenizer, reward_folder, config, base_precision)
        everyone = [*prompts, *held_out]
        lengths = [encode_prompt(tokenizer, prompt.prompt) for prompt in everyone]
        window = context_window(trunk.base.config)
        check_prompt_lengths(
            lengths, config.response_length, window, [p.prompt_id for p in everyone]
        )
        rewards = load_rewards(config.rewards, trunk)
        judge = load_scorer(config.judge, config.judge_label) if config.judge and held_out else None
        watch = Watch(trunk, tokenizer, rewards, judge, held_out, config, out, progress)
        order = prompt_order(len(prompts), config)
        trainer = PPOTrainer(
            trunk,
            config,
            rewards,
            args=_arguments(config, out / CHECKPOINTS_FOLDER, base_precision),
            train_dataset=Dataset.from_list([{"prompt": p.prompt} for p in prompts]).select(order),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        keep_trained_in_float32(trunk.model)
        own_units(trainer, "ScalarHead", "ValueHead")
        watch.attach(trainer)
        if trainer.not_shared:
            progress(
                "PPO", 0, config.max_iterations, f"no shared lower trunk: {trainer.not_shared}"
            )
        rows = [[prompt.to_json() for prompt in split] for split in (prompts, held_out)]
        learned_by = config.model_dump(
            mode="json", exclude={"max_iterations"}
        )  # the end may be moved
        origin = [rows, learned_by, trunk.frozen_checksum()]
        checkpoint = _begin(out, watch, config, origin, resume)
        without_printing(trainer).train(resume_from_checkpoint=checkpoint)
        result = watch.result(trainer.not_shared or "shared")
        about = {
            "base_model": str(base),
            "reward_model": str(reward_folder) if reward_folder else None,
        }
        save_policy(
            trunk, tokenizer, out, {**result.to_json(), **about, "config": config.model_dump()}
        )
        return result


def _memory_advice(config: PPOTrainingConfig, base_precision: str) -> list[str]:
    """What to set where memory runs out."""
    size = config.per_device_train_batch_size
    advice = []
    if size > 1:
        advice.append(f"ppo.per_device_train_batch_size={size // 2} (now {size}; the same updates)")
    if not config.gradient_checkpointing:
        advice.append("ppo.gradient_checkpointing=true")
    if config.critic == "adapter":
        advice.append("ppo.critic=head (one pass and one adapter less)")
    advice.append(f"a lower ppo.response_length (now {config.response_length})")
    return [*advice, *smaller_base(base_precision)]


def _trunk(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    reward_folder: Path | None,
    config: PPOTrainingConfig,
    base_precision: str,
) -> Trunk:
    """The base with the roles that the configuration asks for."""
    model = load_causal_lm(base, base_precision)
    turn_off_dropout(model)
    trunk = Trunk(
        model,
        lora_config(
            model,
            task_type="CAUSAL_LM",
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=0.0,
            target_modules=config.lora_target_modules,
            layers=config.lora_layers,
        ),
    )
    from_reward = config.critic == "adapter" and config.value_init == "reward"
    if reward_folder is not None:
        _check_same_tokenizer(tokenizer, reward_folder)
        trunk.load_reward(reward_folder)
    elif config.uses_reward_model:
        raise InputError(
            "PPO needs a reward model. Run `concord train reward`, or set ppo.rewards."
        )
    elif from_reward:
        raise ConfigError(
            "The value cannot start as a copy of a reward model that the reward does not use. Set ppo.value_init=zero, "
            "or ppo.critic=head."
        )
    if from_reward:
        trunk.add_value()
    else:
        trunk.add_fresh_value(adapter=config.critic == "adapter")
    return trunk


def _check_same_tokenizer(tokenizer: PreTrainedTokenizerBase, reward_folder: Path) -> None:
    """A reward model that was trained with another tokenizer would read other words than the policy writes."""
    if not (reward_folder / "tokenizer_config.json").is_file():
        return
    other = load_tokenizer(reward_folder)
    if other.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"The reward model in {reward_folder} was trained with another tokenizer than the policy's: the same ids "
            "stand for other words. Train the reward model with this tokenizer, or give it as a reward of kind model, "
            "which reads texts."
        )


def _check_prompt_count(prompts: Sequence[Prompt], config: PPOTrainingConfig) -> None:
    per_rollout = config.batch_size // config.completions_per_prompt
    if len(prompts) < per_rollout:
        raise InputError(
            f"A rollout takes {per_rollout} prompts ({config.batch_size} episodes of {config.completions_per_prompt} "
            f"per prompt), but there are {len(prompts)}. Add prompts, or lower ppo.batch_size."
        )


def _check_reporters(config: PPOTrainingConfig) -> None:
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"ppo.report_to names {name}, which is not installed. Install it (`pip install {name}`), or leave it "
                "out; metrics.jsonl is written in any case."
            )


def _check_precision(config: PPOTrainingConfig, base_precision: str) -> None:
    if config.max_kl_update is not None and mixed_precision(base_precision)["fp16"]:
        raise ConfigError(
            "ppo.max_kl_update skips updates, which the loss scaling of float16 does not allow. Set base_precision to "
            "bf16 or fp32, or leave ppo.max_kl_update out."
        )


def prompt_order(count: int, config: PPOTrainingConfig) -> list[int]:
    """Which prompts each rollout takes, all drawn before training, so that a resumed run takes the same.

    The prompts are gone through in a new order each time; what is left at the end of an order, too few for a rollout,
    is dropped.
    """
    per_rollout = config.batch_size // config.completions_per_prompt
    rng = np.random.default_rng(config.seed)
    order: list[int] = []
    while len(order) < per_rollout * config.max_iterations:
        order += rng.permutation(count)[: count // per_rollout * per_rollout].tolist()
    return order[: per_rollout * config.max_iterations]


def _begin(
    out: Path, watch: Watch, config: PPOTrainingConfig, origin: list[Any], resume: bool
) -> str | None:
    """Clear away what an earlier, broken run left, and return the checkpoint to go on from.

    `origin`: prompts, options and frozen weights, which must be those that the checkpoint was made with.
    """
    checkpoint = begin(out / CHECKPOINTS_FOLDER, origin, resume)
    done, state = 0, {"history": [], "warnings": [], "best_iteration": None}
    if checkpoint is not None:
        step = int(checkpoint.name.rsplit("-", 1)[-1])
        done = step // (config.num_ppo_epochs * config.num_mini_batches)
        state = read_json(checkpoint / STATE_FILE)["watch"]
    rows = [row for row in read_rows(out / METRICS_FILE) if row["iteration"] <= done]
    watch.restore(state, rows)
    return None if checkpoint is None else str(checkpoint)


def _arguments(config: PPOTrainingConfig, folder: Path, base_precision: str) -> GRPOConfig:
    micro_batches = config.batch_size // world_size() // config.per_device_train_batch_size
    updates = config.num_ppo_epochs * config.num_mini_batches
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.max_iterations * updates,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=micro_batches // config.num_mini_batches,
        steps_per_generation=micro_batches,
        num_iterations=config.num_ppo_epochs,
        num_generations=config.completions_per_prompt,
        shuffle_dataset=False,  # `prompt_order` has done it
        max_completion_length=config.response_length,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        beta=0.0,  # TRL's own KL penalty; ours is in the reward or in the loss, as kl_in says
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=updates,
        max_grad_norm=config.max_grad_norm,
        **mixed_precision(base_precision),
        **vllm_arguments(config),
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=updates,
        save_strategy="steps",
        save_steps=config.save_every * updates,
        save_total_limit=config.save_total_limit,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
