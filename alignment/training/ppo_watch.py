"""What watches a PPO run: live record, evaluations on held-out prompts, stops, alarm, best checkpoint."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.utils import pad

from alignment.config import GenerationConfig, PPOTrainingConfig
from alignment.errors import TrainingError
from alignment.evaluation.toxicity import Scorer
from alignment.files import disk_errors, write_json, write_jsonl
from alignment.models.distributed import is_main, main_folder
from alignment.models.loading import encode_prompt
from alignment.models.reward_heads import region_warning
from alignment.models.trunk import BASE_FILE, REFERENCE, Trunk
from alignment.progress import Progress
from alignment.records import Prompt
from alignment.sampling import Generated, sample_completions
from alignment.training import ppo_math
from alignment.training.callbacks import append_jsonl, finite
from alignment.training.ppo_alarm import HeldOut, over_optimised
from alignment.training.ppo_reward import RewardMix
from alignment.training.ppo_stops import BY_HAND, STOP_FILE, stop_reason
from alignment.training.ppo_trainer import PPOTrainer, score_sequences, scores_and_deviations

METRICS_FILE, SAMPLES_FILE, WARNINGS_FILE = "metrics.jsonl", "samples.jsonl", "warnings.jsonl"
BEST_FOLDER = "best"
# What is kept of all that TRL logs: its name, and ours.
FIGURES = {
    "reward_score": "reward",
    **{
        name: name
        for name in (
            "kl",
            "kl_coef",
            "policy_loss",
            "value_loss",
            "entropy",
            "clip_fraction",
            "value_clip_fraction",
            "approx_kl",
            "skipped",
            "explained_variance",
            "finished",
            "repetition",
            "learning_rate",
            "grad_norm",
            "seconds_generation",
            "seconds_scoring",
            "seconds_update",
            "memory_mb",
        )
    },
    "completions/mean_length": "mean_length",
    "completions/max_length": "max_length",
}
_log = logging.getLogger(__name__)


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
    best_iteration: int | None
    warnings: list[str]
    lower_trunk: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Watch(TrainerCallback):
    """After each iteration: write its figures, tell progress, evaluate now and then, and decide whether to stop."""

    def __init__(
        self,
        trunk: Trunk,
        tokenizer: PreTrainedTokenizerBase,
        rewards: RewardMix,
        judge: Scorer | None,
        held_out: Sequence[Prompt],
        config: PPOTrainingConfig,
        out: Path,
        progress: Progress,
    ) -> None:
        self.trunk, self.tokenizer, self.rewards, self.judge = trunk, tokenizer, rewards, judge
        self.held_out, self.config = held_out[: config.eval_prompts], config
        self.out, self.progress = out, progress
        self.rows: list[dict[str, Any]] = []
        self.history: list[HeldOut] = []
        self.warnings: list[str] = []
        self.best_iteration: int | None = None
        self.stop_reason = "maximum iterations"
        self._trainer: Any = None
        self._checksum = 0
        self._iteration_began = time.perf_counter()

    def attach(self, trainer: PPOTrainer) -> None:
        """Watch this trainer; its checkpoints carry what the alarm remembers, its reporters get our rows."""
        self._trainer = trainer
        trainer.extra_state, trainer.row_of = self.state, self.row_of

    # What a checkpoint keeps of the watch

    def state(self) -> dict[str, Any]:
        """What is needed to go on as if nothing had happened."""
        return {
            "history": [one.to_json() for one in self.history],
            "warnings": self.warnings,
            "best_iteration": self.best_iteration,
        }

    def restore(self, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Go on from a checkpoint: its state and the rows up to it. What was written after it is taken back."""
        self.history = [HeldOut(**one) for one in state["history"]]
        self.warnings, self.best_iteration = state["warnings"], state["best_iteration"]
        self.rows = rows
        if not is_main():
            return
        write_jsonl(self.out / METRICS_FILE, rows)
        last = rows[-1]["iteration"] if rows else 0
        for name in (SAMPLES_FILE, WARNINGS_FILE):
            path = self.out / name
            if path.exists():
                write_jsonl(path, [r for r in read_rows(path) if r["iteration"] <= last])

    # Callbacks

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._checksum = self.trunk.frozen_checksum()
        if state.global_step == 0:
            self._judge_held_out(0)
        self._iteration_began = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.trunk.frozen_checksum() != self._checksum:
            raise TrainingError(
                "The frozen base or reward model changed during training, so its figures cannot be trusted. This is a "
                "fault of the trainer: please report it with the run's run.json."
            )
        unseen = self._trainer.gradients.at_end()
        if unseen:
            self._warn(round(state.global_step / self._updates()), unseen)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not logs or "policy_loss" not in logs:  # the summary at the end of training
            return
        self._write(self.rows[-1])
        self._decide(control)
        self._iteration_began = time.perf_counter()

    def row_of(self, figures: dict[str, Any]) -> dict[str, Any]:
        """The row of the iteration just done, out of all that the trainer logs, with evaluations where they are due.

        Raises `TrainingError` where a loss is not a number.
        """
        iteration = round(self._trainer.state.global_step / self._updates())
        seconds = time.perf_counter() - self._iteration_began
        row = {"iteration": iteration, **iteration_figures(figures), "seconds": seconds}
        if not all(np.isfinite(figures[key]) for key in ("policy_loss", "value_loss", "kl")):
            raise TrainingError(
                f"A loss of iteration {iteration} is not a number. Lower ppo.learning_rate or ppo.reward_clip; the run "
                "was stopped and marked failed."
            )
        row["tokens_per_second"] = row.get("mean_length", 0.0) * self.config.batch_size / seconds
        if iteration % self.config.eval_every == 0:
            row |= self._judge_held_out(iteration)
        self.rows.append(row)
        return row

    def _updates(self) -> int:
        """Updates per iteration."""
        return self.config.num_ppo_epochs * self.config.num_mini_batches

    def _warn(self, iteration: int, warning: str) -> None:
        self.warnings.append(warning)
        _log.warning("%s", warning)
        append_jsonl(self.out / WARNINGS_FILE, {"iteration": iteration, "warning": warning})

    def _write(self, row: dict[str, Any]) -> None:
        append_jsonl(self.out / METRICS_FILE, row)
        for sample in self._trainer.samples:
            append_jsonl(self.out / SAMPLES_FILE, {"iteration": row["iteration"], **finite(sample)})
        note = f"reward {row['reward']:+.2f}  kl {row['kl']:.2f}"
        self.progress("PPO", row["iteration"], self.config.max_iterations, note)

    def _decide(self, control: Any) -> None:
        reason = stop_reason(self.rows, self.config)
        asked = [(self.out / STOP_FILE).exists()]
        broadcast_object_list(asked)  # all processes must end together
        if reason is None and asked[0]:
            reason = BY_HAND
        if reason is not None:
            self.stop_reason = reason
            control.should_training_stop = control.should_save = True

    # Held-out prompts

    def _judge_held_out(self, iteration: int) -> dict[str, float]:
        """Evaluate, sound the alarm, keep the best policy. Returns the figures for the record."""
        if not self.held_out:
            return {}
        told = [self.evaluate(iteration)]
        broadcast_object_list(told)  # all processes must decide alike
        now = told[0]
        self.history.append(now)
        for warning in [*over_optimised(self.history), *self._outside(now)]:
            self._warn(iteration, warning)
        if iteration and now.merit >= max(one.merit for one in self.history[1:]):
            self.best_iteration = iteration
            save_policy(self.trunk, self.tokenizer, self.out / BEST_FOLDER, now.figures())
        return now.figures()

    def _outside(self, now: HeldOut) -> list[str]:
        """A sentence where the policy's completions have left the region that the reward model knows."""
        quantiles = self.trunk.sd_quantiles
        if now.deviation is None or quantiles is None:
            return []
        told = region_warning(np.asarray(now.deviation), quantiles)
        before = self.history[-2].deviation if len(self.history) > 1 else None
        known = before is not None and region_warning(np.asarray(before), quantiles)
        return [f"iteration {now.iteration}: {told}"] if told and not known else []

    @torch.no_grad()
    def evaluate(self, iteration: int) -> HeldOut:
        """One completion of each held-out prompt, seen by the reward, the base and the judge."""
        generation = GenerationConfig(
            max_new_tokens=self.config.response_length,
            temperature=self.config.temperature,
            seed=self.config.seed,
        )  # pyright: ignore[reportCallIssue]
        model = self.trunk.model
        was_training = model.training
        model.eval()
        merges = self._trainer is not None and self._trainer.merges
        with self.trunk.merged_policy() if merges else contextlib.nullcontext():
            drawn = sample_completions(model, self.tokenizer, self.held_out, generation, 1)
        completions = [group[0] for group in drawn]
        prompts = [encode_prompt(self.tokenizer, prompt.prompt) for prompt in self.held_out]
        cost = self._cost(prompts, completions)
        reward, deviation = self._rewards(prompts, completions, cost)
        model.train(was_training)
        texts = [completion.text for completion in completions]
        toxicity = None if self.judge is None else self.judge(texts).tolist()
        return HeldOut(iteration, reward, cost, toxicity, deviation)

    def _rewards(
        self, prompts: list[list[int]], completions: list[Generated], cost: list[float]
    ) -> tuple[list[float], list[float] | None]:
        """Each completion's reward, and how unsure the reward model's heads are of theirs, where they can say.

        `cost`: nats per token under the reference.
        """
        config, size, deviation = self.config, self.config.per_device_train_batch_size, None
        texts = [completion.text for completion in completions]
        raw = self.rewards.from_texts([prompt.prompt for prompt in self.held_out], texts)
        if self.rewards.own is not None:
            sequences = [
                torch.tensor([*p, *c.ids]) for p, c in zip(prompts, completions, strict=True)
            ]
            if self.trunk.sd_quantiles is None:
                own = score_sequences(self.trunk, sequences, size)
            else:
                own, unsure = scores_and_deviations(self.trunk, sequences, size)
                deviation = unsure.tolist()
            raw[:, self.rewards.own] = own
        if self.rewards.fluency is not None:
            raw[:, self.rewards.fluency] = -torch.tensor(cost)
        finished = torch.tensor([completion.finished for completion in completions])
        lengths = torch.tensor([len(completion.ids) for completion in completions])
        scores = ppo_math.shaped_scores(
            self.rewards.combined(raw),
            finished,
            lengths,
            config.reward_clip,
            config.missing_eos_penalty,
            config.length_penalty,
        )
        return scores.tolist(), deviation

    def _cost(self, prompts: list[list[int]], completions: list[Generated]) -> list[float]:
        """Nats per token of each completion under the base; 0 for an empty one."""
        device, size = self.trunk.base.device, self.config.per_device_train_batch_size
        costs: list[float] = []
        for start in range(0, len(prompts), size):
            part = list(
                zip(prompts[start : start + size], completions[start : start + size], strict=True)
            )
            rows = [torch.tensor([*p, *c.ids]) for p, c in part]
            ids = pad(rows, padding_side="right").to(device)
            mask = pad([torch.ones_like(row) for row in rows], padding_side="right").to(device)
            out = self.trunk.model(
                input_ids=ids,
                attention_mask=mask,
                fused_lm_head=True,
                role=REFERENCE,
                keep=ids.size(1) - 1,
            )
            for logps, (p, c) in zip(out.log_probs, part, strict=True):
                told = logps[len(p) - 1 : len(p) - 1 + len(c.ids)]
                costs.append(-float(told.mean()) if len(c.ids) else 0.0)
        return costs

    def result(self, lower_trunk: str) -> PPOResult:
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
            float(np.mean(self.history[-1].reward)) if self.history else None,
            self.best_iteration,
            self.warnings,
            lower_trunk,
        )


def save_policy(
    trunk: Trunk, tokenizer: PreTrainedTokenizerBase, folder: Path, about: dict[str, Any]
) -> None:
    """Write the policy adapter with its tokenizer and `policy.json`, whole or not at all; all processes call it."""
    with main_folder(folder) as scratch:
        trunk.save_policy(scratch)
        tokenizer.save_pretrained(str(scratch))
        write_json(scratch / "policy.json", about)
        write_json(scratch / BASE_FILE, trunk.base_print)


def iteration_figures(logs: dict[str, Any]) -> dict[str, float]:
    """Our figures of one iteration out of all that TRL logs, under our names."""
    found = {ours: logs[theirs] for theirs, ours in FIGURES.items() if logs.get(theirs) is not None}
    return finite({name: float(value) for name, value in found.items()})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a live record; none where there is no file."""
    if not path.exists():
        return []
    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
