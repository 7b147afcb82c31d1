"""How the reward model is trained: the model with its heads, the trainer's arguments, checkpoints and memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.trainer.reward_config import RewardConfig

from alignment.config import RewardTrainingConfig
from alignment.errors import ModelError
from alignment.files import write_text
from alignment.models.distributed import is_main, world_size
from alignment.models.loading import device, pad_id, turn_off_dropout
from alignment.models.lora import lora_config
from alignment.models.quantization import load_options
from alignment.models.reward_heads import EnsembleHead
from alignment.progress import Progress
from alignment.training.callbacks import ReportProgress, WriteMetrics, without_printing
from alignment.training.checkpoints import begin as begin_checkpoints
from alignment.training.checkpoints import mark_complete
from alignment.training.out_of_memory import smaller_base
from alignment.training.reward_groups import PromptGroup, batch_row, batches_of
from alignment.training.reward_loss import bootstrap_counts
from alignment.training.reward_trainer import GroupRewardTrainer, score_last_token
from alignment.training.sharding import own_units

CHECKPOINTS_FOLDER = "checkpoints"
STOP_FILE = "stop"  # in the run's folder: somebody asks the run to end


class EvaluateAtEnd(TrainerCallback):
    """The last update is evaluated too, wherever the interval ends."""

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class MarkCheckpoints(TrainerCallback):
    """Mark each checkpoint as complete once every process has written its part."""

    def on_save(self, args, state, control, **kwargs) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class StopWhenAsked(TrainerCallback):
    """End gracefully, with a checkpoint, once there is a file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.path.exists():
            control.should_evaluate = control.should_save = control.should_training_stop = True


def load_classifier(
    base: str | Path, tokenizer: PreTrainedTokenizerBase, heads: int, precision: str = "fp32"
) -> Any:
    """The base in `precision` as a sequence classification model with an ensemble of `heads` as its `score` layer.

    Raises `ModelError` where transformers has no such form of this base.
    """
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(base), num_labels=1, **load_options(precision)
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"No reward model can be made of {base}: {reason} Choose a causal base that transformers can load as "
            "AutoModelForSequenceClassification."
        ) from error
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear `score` layer on its last hidden states. Choose a decoder-only base."
        )
    turn_off_dropout(model)
    model.config.get_text_config().pad_token_id = pad_id(tokenizer)
    model.score = EnsembleHead(model.score.in_features, heads)
    score_last_token(model)
    return model


def training_rows(
    groups: Sequence[PromptGroup], config: RewardTrainingConfig
) -> list[dict[str, Any]]:
    """The training batches as rows; each head sees its own bootstrap sample of the prompts."""
    counts = bootstrap_counts(len(groups), config.ensemble_heads, config.seed)
    chosen = [group if config.soft_labels else hardened(group) for group in groups]
    batches = batches_of(
        chosen, config.per_device_train_batch_size, config.max_batch_tokens, config.seed
    )
    return [batch_row([chosen[n] for n in batch], counts[batch]) for batch in batches]


def hardened(group: PromptGroup) -> PromptGroup:
    """The group with labels 0, 1, and 0.5 for ties."""
    return replace(group, probability=(np.sign(group.probability - 0.5) + 1) / 2)


def begin(
    out: Path,
    rows: list[dict[str, Any]],
    config: RewardTrainingConfig,
    base_print: dict[str, Any],
    resume: bool,
) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start; the folder is tidied accordingly.

    Call it once the trainer is there, which introduces the processes to each other. Raises `TrainingError` where the
    checkpoints are of other data or options.
    """
    content = [rows, config.model_dump(mode="json"), base_print]
    checkpoint = begin_checkpoints(out / CHECKPOINTS_FOLDER, content, resume)
    if is_main():
        (out / STOP_FILE).unlink(missing_ok=True)
        if checkpoint is None:
            (out / "metrics.jsonl").unlink(missing_ok=True)
        else:
            _keep_until(out / "metrics.jsonl", int(checkpoint.name.rpartition("-")[2]))
    return checkpoint


def _keep_until(metrics: Path, step: int) -> None:
    """Drop the logged rows that come after `step`: they will be logged again."""
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line that the killed process was writing
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(metrics, "".join(kept))


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    validation: Sequence[PromptGroup],
    config: RewardTrainingConfig,
    out: Path,
    metrics: Path,
    progress: Progress,
) -> GroupRewardTrainer:
    """The trainer, ready to run."""
    patience = config.early_stopping_patience
    trainer = GroupRewardTrainer(
        model=model,
        args=arguments(config, len(rows), out / CHECKPOINTS_FOLDER),
        train_dataset=Dataset.from_list(rows),
        validation=validation,
        completions_per_batch=config.per_device_train_batch_size,
        margin=config.margin,
        processing_class=tokenizer,
        peft_config=None if config.full_finetuning else lora(model, config),
        callbacks=[
            ReportProgress(progress, "reward model", ("loss", "accuracy", "eval_loss")),
            WriteMetrics(metrics),
            EvaluateAtEnd(),
            StopWhenAsked(out / STOP_FILE),
            *([EarlyStoppingCallback(patience)] if patience else []),
            MarkCheckpoints(),
        ],
    )
    own_units(trainer, EnsembleHead.__name__)
    without_printing(trainer)
    return trainer


def lora(model: Any, config: RewardTrainingConfig) -> LoraConfig:
    """The adapter, which carries the score layer."""
    return lora_config(
        model,
        task_type="SEQ_CLS",
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
        layers=config.lora_layers,
        modules_to_save=["score"],
    )


def arguments(config: RewardTrainingConfig, batches: int, folder: Path) -> RewardConfig:
    """TRL's options. One example is a batch of prompt groups, so the batch size here is 1."""
    updates = math.ceil(math.ceil(batches / world_size()) / config.gradient_accumulation_steps)
    every = max(1, int(updates * config.num_train_epochs) // config.evaluations)
    half = half_precision(config.precision)
    return RewardConfig(
        output_dir=str(folder),
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        max_length=None,
        disable_dropout=False,  # the base's is off already, and the adapter's is an option
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=half,
        use_cpu=half and device().type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def half_precision(precision: str) -> bool:
    """Whether to train in bfloat16: where it is asked for, or by itself on an accelerator that has it."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def memory_advice(config: RewardTrainingConfig, base_precision: str = "fp32") -> list[str]:
    """What to set where memory runs out."""
    size, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
    advice = [
        f"reward.per_device_train_batch_size={max(2, size // 2)} with "
        f"reward.gradient_accumulation_steps={2 * steps} (now {size} and {steps}; the same updates)"
    ]
    if not config.gradient_checkpointing:
        advice.append("reward.gradient_checkpointing=true")
    if config.full_finetuning:
        advice.append("reward.full_finetuning=false (an adapter)")
    advice.append(f"a lower reward.max_length (now {config.max_length})")
    return advice if config.full_finetuning else [*advice, *smaller_base(base_precision)]
