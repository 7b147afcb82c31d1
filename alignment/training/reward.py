"""`concord train reward`: from preference pairs to a reward model that says how far to trust it.

The pairs become prompt groups (`reward_groups`), TRL's trainer learns from them (`reward_trainer`), held-out prompts
give the trust figures (`reward_trust`), and all of it is saved together: adapter, heads, figures, card and page.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from alignment.config import RewardTrainingConfig
from alignment.errors import InputError, TrainingError
from alignment.evaluation.reward_page import write_reward_page
from alignment.files import disk_errors, whole_folder, write_json, write_jsonl, write_text
from alignment.models.loading import context_window
from alignment.models.quantization import QUANTISED, keep_trained_in_float32
from alignment.models.reward_heads import save_heads
from alignment.models.trunk import REWARD_FILE, fingerprint
from alignment.progress import Progress, silent
from alignment.records import LabelerEvidence, PreferencePair, PromptText
from alignment.training.out_of_memory import memory_errors
from alignment.training.reward_card import model_card
from alignment.training.reward_figures import trust_figures
from alignment.training.reward_groups import (
    DataWarnings,
    PromptGroup,
    group_pairs,
    prompts_on_both_sides,
    split_groups,
)
from alignment.training.reward_run import (
    CHECKPOINTS_FOLDER,
    STOP_FILE,
    begin,
    build_trainer,
    load_classifier,
    memory_advice,
    training_rows,
)
from alignment.training.reward_trainer import GroupRewardTrainer
from alignment.training.reward_trust import scored_pairs

METRICS_FILE, TRUST_FILE, PAGE_FILE = "metrics.jsonl", "trust.json", "reward.html"
UNCERTAINTY_FILE = "uncertainty.jsonl"
Tasks = Mapping[str, tuple[PromptText, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class RewardResult:
    """How far the reward model can be trusted, on pairs of prompts it has not seen. `trust.json` holds the rest.

    `accuracy`: share of ordered held-out pairs, with a 95% interval over prompts; `ceiling`: how often a trusted
    labeler goes with the consensus of the others there. `ece`: expected calibration error after temperature scaling.
    `score_mean`, `score_std`: of the training completions, the constants that PPO normalises by. `best_step`: the
    update whose weights were kept, of `steps`. `sd_quantiles`: of the score's deviation over the heads, None with one
    head. `warnings`: what was odd about the data, counted; `messages`: the same in sentences.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ceiling: float | None
    accuracy_of_ceiling: float | None
    log_loss: float
    ece: float
    temperature: float
    held_out_pairs: int
    train_pairs: int
    validation_pairs: int
    left_out_too_long: int
    score_mean: float
    score_std: float
    sd_quantiles: dict[str, float] | None
    final_loss: float
    best_step: int
    steps: int
    stopped_early: bool
    warnings: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Data:
    """The prompt groups of the three splits, the limit in tokens, and what was odd."""

    train: list[PromptGroup]
    validation: list[PromptGroup]
    held_out: list[PromptGroup]
    longest: int
    warnings: DataWarnings


def train_reward(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    train_pairs: Sequence[PreferencePair],
    held_out_pairs: Sequence[PreferencePair],
    config: RewardTrainingConfig,
    out: Path,
    progress: Progress = silent,
    *,
    evidence: LabelerEvidence | None = None,
    tasks: Tasks | None = None,
    resume: bool = False,
    base_precision: str = "fp32",
) -> RewardResult:
    """Train on `train_pairs`, measure on `held_out_pairs`, and save everything to `out`.

    `evidence`: what the labelers did on the held-out prompts, for the ceiling and the biases. `tasks`: prompt id ->
    prompt and completions, whose uncertainty is written to `uncertainty.jsonl`. `resume`: go on from the newest
    complete checkpoint in `out`, from the start where there is none; the result is that of an uninterrupted run.
    `base_precision`: in which the frozen base is held; what trains is in float32.
    A file `out/stop` ends the run after the update under way, with a checkpoint; what is best so far is saved.
    Raises `InputError` where a prompt is on both sides, and `TrainingError` where no pair can be used, the data or
    options are not those of the checkpoint, memory runs out, or the loss is no longer a number.
    """
    both = prompts_on_both_sides(train_pairs, held_out_pairs)
    if both:
        raise InputError(
            f"{len(both)} prompt(s) have pairs both to train on and held out ({', '.join(both[:3])}); the accuracy "
            "would be that of prompts the model has seen. Split by prompt, so that a prompt is on one side only."
        )
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    if config.full_finetuning and base_precision in QUANTISED:
        raise TrainingError(
            f"Weights in {base_precision} cannot be trained, only carry an adapter. Set base_precision to fp32, or "
            "take reward.full_finetuning out."
        )
    advice = memory_advice(config, base_precision)
    with memory_errors(advice):
        model = load_classifier(base, tokenizer, config.ensemble_heads, base_precision)
    base_print = fingerprint(model)
    data = _prepared(tokenizer, train_pairs, held_out_pairs, config, context_window(model.config))
    rows = training_rows(data.train, config)
    with memory_errors(advice):
        trainer = build_trainer(
            model, tokenizer, rows, data.validation, config, out, out / METRICS_FILE, progress
        )
    keep_trained_in_float32(trainer.model)
    checkpoint = begin(out, rows, config, base_print, resume)
    with memory_errors(advice):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seen, validated, held_out = (
            [*trainer.group_scores(part)] for part in (data.train, data.validation, data.held_out)
        )
        doubts = _uncertainties(trainer, tokenizer, tasks or {}, data.longest, config)
    trust = trust_figures(seen, validated, held_out, evidence or LabelerEvidence(), config.seed)
    result = _result(trainer, trust, data)
    state: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        about = {"base": base_print, "base_model": str(base), "config": config.model_dump()}
        with whole_folder(out) as folder:
            _save_model(trainer, state, folder)
            tokenizer.save_pretrained(str(folder))
            write_json(folder / TRUST_FILE, trust)
            if doubts:
                write_jsonl(folder / UNCERTAINTY_FILE, doubts)
            write_text(folder / "README.md", model_card(result.to_json(), trust, about))
            write_reward_page(folder / PAGE_FILE, trust, result.to_json())
            write_json(folder / REWARD_FILE, {**result.to_json(), **about})
        if not (out / STOP_FILE).exists():  # a run that was asked to end can still go on
            shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
    return result


def _prepared(
    tokenizer: PreTrainedTokenizerBase,
    train_pairs: Sequence[PreferencePair],
    held_out_pairs: Sequence[PreferencePair],
    config: RewardTrainingConfig,
    window: int | None,
) -> _Data:
    """The pairs as groups; `TrainingError` where too little is left to train on or to measure."""
    longest = min(config.max_length, window or config.max_length)
    by_confidence = config.weight_by_confidence
    train, warnings = group_pairs(tokenizer, train_pairs, longest, by_confidence=by_confidence)
    if not train and warnings.weightless_pairs:
        raise TrainingError(
            "Every training pair has the weight 0: the consensus is sure of none. Set reward.weight_by_confidence to "
            "false, or collect more rankings."
        )
    held_out, more = group_pairs(tokenizer, held_out_pairs, longest)
    warnings.add(more)
    if held_out and not any((group.probability != 0.5).any() for group in held_out):
        raise TrainingError(
            "Every held-out pair is a tie (probability 0.5), so that no accuracy can be told. Have more prompts "
            "ranked, by labelers who prefer one completion to another."
        )
    if len(train) < 2 or not held_out:
        found = " ".join(["", *warnings.sentences(longest)])
        raise TrainingError(
            f"Of {len(train_pairs)} training and {len(held_out_pairs)} held-out pairs, those that can be used come "
            f"from {len(train)} and {len(held_out)} prompts; at least two to train on, one of which validates, and one "
            f"held out, are needed.{found} Rank completions of more prompts."
        )
    train, validation = split_groups(train, config.validation_fraction, config.seed)
    return _Data(train, validation, held_out, longest, warnings)


def _uncertainties(
    trainer: GroupRewardTrainer,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks,
    longest: int,
    config: RewardTrainingConfig,
) -> list[dict[str, Any]]:
    """For each task the root mean square, over its pairs, of the score difference's deviation over the heads."""
    if config.ensemble_heads < 2 or not tasks:
        return []
    pairs = [
        PreferencePair(prompt, first, second, 0.5, 0.5, prompt_id, first, second)
        for prompt_id, (prompt, texts) in tasks.items()
        for first, second in combinations(texts, 2)
    ]
    groups, _ = group_pairs(tokenizer, pairs, longest)
    spread: dict[str, float] = {}
    for one in trainer.group_scores(groups):
        spread[one[0].prompt_id] = float(np.sqrt((scored_pairs([one]).sd ** 2).mean()))
    return [{"prompt_id": name, "sd": spread.get(name, 0.0)} for name in tasks]


def _result(trainer: GroupRewardTrainer, trust: dict[str, Any], data: _Data) -> RewardResult:
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    unsure = trust["uncertainty"]
    return RewardResult(
        accuracy=trust["accuracy"]["mean"],
        accuracy_low=trust["accuracy"]["low"],
        accuracy_high=trust["accuracy"]["high"],
        ceiling=trust["ceiling"]["mean"] if trust["ceiling"] else None,
        accuracy_of_ceiling=trust["accuracy_of_ceiling"],
        log_loss=trust["log_loss"]["after"],
        ece=trust["calibration"]["ece"],
        temperature=trust["temperature"],
        held_out_pairs=trust["held_out_pairs"],
        train_pairs=_pairs(data.train),
        validation_pairs=_pairs(data.validation),
        left_out_too_long=data.warnings.left_out_too_long,
        score_mean=trust["scores"]["mean"],
        score_std=trust["scores"]["std"],
        sd_quantiles=unsure["sd_quantiles"] if unsure else None,
        final_loss=float(logged[-1]),
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        steps=trainer.state.global_step,
        stopped_early=trainer.state.global_step < trainer.state.max_steps,
        warnings=asdict(data.warnings),
        messages=data.warnings.sentences(data.longest),
    )


def _pairs(groups: Sequence[PromptGroup]) -> int:
    return sum(len(group.first) for group in groups)


def _save_model(trainer: GroupRewardTrainer, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Adapter, or the whole model, whose `score` layer is the mean of the heads; the heads beside it."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    name = next(
        key
        for key in state
        if key.endswith(("score.modules_to_save.default.weight", "score.weight"))
        and "original_module" not in key
    )
    heads = state[name].float()
    state = {**state, name: heads.mean(0, keepdim=True)}
    model.save_pretrained(str(folder), state_dict=state)
    if len(heads) > 1:
        save_heads(folder, heads)
