"""Supervised training of a causal LM on prompts and completions, with TRL's `SFTTrainer`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from alignment.models.loading import encode_completion, encode_prompt
from alignment.progress import Progress, silent
from alignment.records import PromptText
from alignment.training.callbacks import ReportProgress, without_printing


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[tuple[PromptText, str]],
    *,
    learning_rate: float,
    batch_size: int,
    epochs: float = 1.0,
    completion_only: bool = False,
    activation_checkpointing: bool = False,
    seed: int = 0,
    label: str = "supervised training",
    progress: Progress = silent,
) -> None:
    """Train the weights of `model` that require a gradient, in place, on `examples` of (prompt, completion).

    The loss is the mean negative log-likelihood per token, of the completions alone where `completion_only`.
    Batches hold examples of like length.
    """
    rows: list[dict[str, Any]] = []
    for prompt, completion in examples:
        prompt_ids = encode_prompt(tokenizer, prompt)
        completion_ids = encode_completion(tokenizer, completion)
        mask = [0] * len(prompt_ids) + [1] * len(completion_ids)
        rows.append({"input_ids": prompt_ids + completion_ids, "completion_mask": mask})
    dataset = Dataset.from_list(rows)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            adam_beta2=0.98,
            train_sampling_strategy="group_by_length",
            completion_only_loss=completion_only,
            max_length=None,
            gradient_checkpointing=activation_checkpointing,
            bf16=torch.cuda.is_available(),
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[ReportProgress(progress, label)],
        )
        without_printing(trainer).train()
    model.eval()
