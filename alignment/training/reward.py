"""The reward model: TRL's `RewardTrainer` with a LoRA adapter and a score head on the base model.

Loss: -log sigmoid(r(chosen) - r(rejected)) (Bradley-Terry; Ouyang et al. 2022, arXiv:2203.02155, eq. 1).
"""

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
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, set_seed
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from alignment.config import RewardTrainingConfig
from alignment.errors import TrainingError
from alignment.files import disk_errors, whole_folder, write_json
from alignment.models.loading import (
    context_window,
    encode_completion,
    encode_prompt,
    pad_id,
    placed,
)
from alignment.models.quantization import (
    in_float32,
    keep_trained_in_float32,
    load_options,
    mixed_precision,
)
from alignment.models.trunk import REWARD_FILE, fingerprint
from alignment.progress import Progress, silent
from alignment.records import PreferencePair
from alignment.training.callbacks import ReportProgress, WriteMetrics, without_printing


@dataclass(frozen=True, slots=True)
class RewardResult:
    """How far the reward model can be trusted, on pairs of prompts it has not seen."""

    accuracy: float
    held_out_pairs: int
    train_pairs: int
    left_out_too_long: int
    score_mean: float
    score_std: float
    final_loss: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair]
) -> list[dict[str, list[int]]]:
    """Token ids of prompt + chosen and prompt + rejected, both ending with end-of-sequence."""
    rows = []
    for pair in pairs:
        prompt = encode_prompt(tokenizer, pair.prompt)
        rows.append(
            {
                "chosen_ids": prompt + encode_completion(tokenizer, pair.chosen),
                "rejected_ids": prompt + encode_completion(tokenizer, pair.rejected),
            }
        )
    return rows


def train_reward(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    train_pairs: Sequence[PreferencePair],
    held_out_pairs: Sequence[PreferencePair],
    config: RewardTrainingConfig,
    out: Path,
    progress: Progress = silent,
    precision: str = "fp32",
) -> RewardResult:
    """Train on `train_pairs`, measure on `held_out_pairs`, and save adapter, head and tokenizer to `out`.

    The frozen base is held in `precision`; what trains is in float32.

    Raises `TrainingError` where no pair fits `max_length`, or the loss is no longer a number.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=1, **load_options(precision)
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    model.score.register_forward_pre_hook(in_float32)
    base_print = fingerprint(model)
    longest = min(config.max_length, context_window(model.config) or config.max_length)
    rows, held_out = (
        [*_fitting(encode_pairs(tokenizer, p), longest)] for p in (train_pairs, held_out_pairs)
    )
    if not rows or not held_out:
        raise TrainingError(
            f"After leaving out pairs longer than {longest} tokens, {len(rows)} training and {len(held_out)} held-out "
            "pairs remain; at least one of each is needed. Raise reward.max_length, shorten the completions, or rank "
            "more prompts."
        )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RewardTrainer(
            model=model,
            args=_arguments(config, scratch, precision),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                target_modules=config.lora_target_modules,
                modules_to_save=["score"],
            ),
            callbacks=[
                ReportProgress(progress, "reward model", ("loss", "accuracy")),
                WriteMetrics(out / "metrics.jsonl"),
            ],
        )
        keep_trained_in_float32(trainer.model)
        without_printing(trainer).train()
    trained = placed(trainer.model).eval()
    chosen, rejected = pair_scores(trained, tokenizer, held_out, config.per_device_train_batch_size)
    seen = np.concatenate(pair_scores(trained, tokenizer, rows, config.per_device_train_batch_size))
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = RewardResult(
        accuracy=float(np.mean(chosen > rejected)),
        held_out_pairs=len(held_out),
        train_pairs=len(rows),
        left_out_too_long=len(train_pairs) + len(held_out_pairs) - len(rows) - len(held_out),
        score_mean=float(seen.mean()),
        score_std=float(max(seen.std(), 1e-6)),
        final_loss=float(logged[-1]),
    )
    with whole_folder(out) as folder:
        trained.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        about = {"base": base_print, "base_model": str(base), "config": config.model_dump()}
        write_json(folder / REWARD_FILE, {**result.to_json(), **about})
    return result


def _fitting(rows: list[dict[str, list[int]]], longest: int) -> list[dict[str, list[int]]]:
    return [row for row in rows if max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= longest]


def _arguments(config: RewardTrainingConfig, scratch: str, precision: str) -> RewardConfig:
    return RewardConfig(
        output_dir=scratch,
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        max_length=None,
        gradient_checkpointing=False,
        **mixed_precision(precision),
        logging_steps=0.01,  # a hundredth of the steps
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


@torch.no_grad()
def pair_scores(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, list[int]]],
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores of chosen and rejected, each [n]."""
    sides = []
    for key in ("chosen_ids", "rejected_ids"):
        scores: list[float] = []
        for start in range(0, len(rows), batch_size):
            ids = [torch.tensor(row[key]) for row in rows[start : start + batch_size]]
            batch = pad_sequence(ids, batch_first=True, padding_value=pad_id(tokenizer)).to(
                model.device
            )
            lengths = torch.tensor([len(i) for i in ids], device=model.device)
            mask = (torch.arange(batch.size(1), device=model.device) < lengths[:, None]).long()
            hidden = _last_hidden(model, batch, mask)
            head = model.base_model.model.score
            scores += head(hidden[torch.arange(len(ids)), lengths - 1]).squeeze(-1).float().tolist()
        sides.append(np.array(scores))
    return sides[0], sides[1]


def _last_hidden(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states, read by length: transformers' own pooling looks for pad ids, which may equal end-of-sequence."""
    backbone = model.base_model.model.base_model
    return backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
