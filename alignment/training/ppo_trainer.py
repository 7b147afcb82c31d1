"""PPO from human feedback on a shared trunk: a subclass of TRL's `GRPOTrainer`.

TRL gives generation, buffering, distribution, logging and saving; what makes it PPO is added here: a critic, the
token-level KL penalty, GAE, and the clipped value loss. The hooks of GRPOTrainer that are overridden are private:
`tests/test_ppo.py` fails with a clear message when TRL moves one.
"""

from __future__ import annotations

import contextlib
import inspect
import resource
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import pad, shuffle_sequence_dict, split_tensor_dict

from alignment.config import PPOTrainingConfig
from alignment.errors import InputError
from alignment.evaluation.fluency import repetition
from alignment.models.loading import pad_id
from alignment.models.trunk import POLICY, REFERENCE, REWARD, RoleOutput, Trunk
from alignment.records import text_of
from alignment.training import ppo_math
from alignment.training.checkpoints import could_not_write, mark_complete
from alignment.training.ppo_invariants import SAME_STATES, GradientCheck, check_start
from alignment.training.ppo_reward import RewardMix
from alignment.training.ppo_state import load_state, save_state


def _read_by_the_trunk(prompts: list, **_: Any) -> list[float]:
    """TRL asks for a reward function; rewards are read in `_calculate_rewards` and in the rollout's passes instead."""
    return [0.0] * len(prompts)


class PPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with a critic and token-level advantages. Advantages are [B, T]; group baselines are not used."""

    def __init__(
        self, trunk: Trunk, config: PPOTrainingConfig, rewards: RewardMix, **kwargs: Any
    ) -> None:
        self.trunk, self.ppo, self.rewards = trunk, config, rewards
        self.kl_coef = config.kl_coef
        self.samples: list[dict[str, Any]] = []
        # Of whoever watches: what checkpoints keep of it, and its row of an iteration out of all figures.
        self.extra_state: Callable[[], dict[str, Any]] = dict
        self.row_of: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self.model: Any
        self.args: Any
        super().__init__(model=trunk.model, reward_funcs=[_read_by_the_trunk], **kwargs)  # pyright: ignore[reportArgumentType]
        trunk.add_roles()
        self.not_shared = "share_lower_trunk is off"
        if config.share_lower_trunk:
            self.not_shared = trunk.share_lower_trunk()
        self._positions = "position_ids" in inspect.signature(type(trunk.base).forward).parameters
        self._texts: list[str] = []
        self._sampled_states: torch.Tensor | None = None
        self._raw: Any = None
        self._finished: Any = None
        self._loss_kl_coef = 0.0
        self._update_kls: list[float] = []
        self._skipping = False
        self._checked = False
        self.gradients = GradientCheck()
        self._rollout_seconds = self._update_seconds = 0.0

    @property
    def merges(self) -> bool:
        """Whether sampling runs on merged weights; a sharded or quantised base has none to merge into."""
        return self.ppo.merge_for_generation and self.trunk.can_merge()

    # The rollout

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        merged = self.trunk.merged_policy() if self.merges else contextlib.nullcontext()
        with merged:
            if not self._keeps_states():
                return super()._generate_single_turn(*args, **kwargs)
            lower: Any = self.trunk.lower
            with lower.watched():
                completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
                self._sampled_states = self._finished_states(args[0], completion_ids)
        return completion_ids, logprobs

    def _keeps_states(self) -> bool:
        """Whether sampling goes through the lower trunk as the training forward does, in the same precision."""
        plain = not (self.use_vllm or self.use_transformers_continuous_batching)
        full = not (self.args.bf16 or self.args.fp16 or self.args.gradient_checkpointing)
        return self.merges and plain and full and self.trunk.lower is not None

    @torch.no_grad()
    def _finished_states(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]]
    ) -> torch.Tensor:
        """Lower states [B, S, H] of prompts padded on the left and completions padded on the right."""
        device, padding = self.accelerator.device, pad_id(self._tokenizer)
        sides = [(prompt_ids, "left"), (completion_ids, "right")]
        rows = [([torch.tensor(ids) for ids in lists], side) for lists, side in sides]
        ids = [pad(tensors, padding_value=padding, padding_side=side) for tensors, side in rows]
        mask = [
            pad([torch.ones_like(t) for t in tensors], padding_side=side) for tensors, side in rows
        ]
        lower: Any = self.trunk.lower
        return lower.finish_generation(
            self.trunk.base, torch.cat(ids, 1).to(device), torch.cat(mask, 1).to(device)
        )

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        ends = set(self.eos_token_ids)
        self._finished = torch.tensor(
            [bool(ids) and ids[-1] in ends for ids in completion_ids_list]
        )
        self._raw = self.rewards.from_texts(prompts, self._texts)
        everywhere = len(prompts) * self.accelerator.num_processes
        return torch.zeros(everywhere, 1, device=self.accelerator.device)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, **kwargs
    ):
        """TRL asks for old log-probabilities here; `_rollout_passes` computes them with everything else."""
        return torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device), None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        rollout = super()._generate_and_score_completions(inputs)
        generated = time.perf_counter()
        mask = rollout["completion_mask"].float()
        device = mask.device
        passes = self._rollout_passes(rollout)
        raw = self._raw.to(device)
        if self.rewards.own is not None:
            raw[:, self.rewards.own] = passes["own_scores"]
        if self.rewards.fluency is not None:
            fluency = ppo_math.mean_log_likelihood(passes["ref_logps"], mask)
            raw[:, self.rewards.fluency] = fluency
        scores = ppo_math.shaped_scores(
            self.rewards.combined(raw),
            self._finished.to(device),
            mask.sum(1),
            self.ppo.reward_clip,
            self.ppo.missing_eos_penalty,
            self.ppo.length_penalty,
        )
        logps, ref_logps, values = passes["logps"], passes["ref_logps"], passes["values"]
        kl = ppo_math.kl_k1(logps, ref_logps) * mask
        in_reward = self.ppo.kl_in == "reward"
        rewards = ppo_math.token_rewards(scores, kl, mask, self.kl_coef if in_reward else 0.0)
        if self.ppo.whiten_rewards:
            moments = ppo_math.masked_moments(rewards, mask, self._summed)
            rewards = ppo_math.masked_whiten(rewards, mask, *moments, shift_mean=False)
        advantages, returns = ppo_math.gae(rewards, values, mask, self.ppo.gamma, self.ppo.lam)
        moments = ppo_math.masked_moments(advantages, mask, self._summed)
        rollout["advantages"] = ppo_math.masked_whiten(advantages, mask, *moments)
        rollout["old_per_token_logps"], rollout["old_values"] = logps, values
        rollout["returns"] = returns
        if not in_reward:
            rollout["ref_per_token_logps"] = ref_logps
        if passes["lower_states"] is not None:
            rollout["lower_states"] = passes["lower_states"]
        if not self._checked:
            self._check_invariants(rollout, kl.sum(1))
        self._keep_samples(inputs, scores, kl.sum(1))
        self._record(
            reward_score=scores.mean(),
            kl=kl.sum(1).mean(),
            kl_coef=self.kl_coef,
            explained_variance=ppo_math.explained_variance(values, returns, mask, self._summed),
            finished=self._finished.float().mean().to(device),
            repetition=torch.tensor(repetition(self._texts), device=device),
            seconds_generation=generated - started,
            seconds_scoring=time.perf_counter() - generated,
        )
        self._adapt_kl_coef(self._metrics["train"]["kl"][-1])
        self._skipping = False
        self._rollout_seconds, self._update_seconds = time.perf_counter() - started, 0.0
        return rollout

    def _inputs(self, rollout: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Prompts padded on the left, completions on the right: ids, mask and positions, each [B, S]."""
        attention = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)
        inputs = {
            "input_ids": torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1),
            "attention_mask": attention,
        }
        if self._positions:  # absolute positions count from a prompt's own first token
            inputs["position_ids"] = (attention.cumsum(1) - 1).clamp(min=0)
        return inputs

    def _forward(
        self, model: Any, role: str, inputs: dict[str, torch.Tensor], keep: int, **more: Any
    ) -> RoleOutput:
        with self.accelerator.autocast():
            return model(**inputs, **more, fused_lm_head=True, role=role, keep=keep)

    @torch.no_grad()
    def _rollout_passes(self, rollout: dict[str, Any]) -> dict[str, Any]:
        """What the roles say of a whole rollout, in micro-batches.

        `logps`, `ref_logps`, `values` [B, T]; `own_scores` [B] of the reward role, `lower_states` [B, S, H], or None.
        """
        inputs, lengths = self._inputs(rollout), rollout["completion_mask"].sum(1)
        keep, size = rollout["completion_ids"].size(1), self.args.per_device_train_batch_size
        states, self._sampled_states = self._sampled_states, None
        found: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(lengths), size):
            part = {name: tensor[start : start + size] for name, tensor in inputs.items()}
            lower = None if states is None else states[start : start + size]
            reference = self._forward(self.model, REFERENCE, part, keep, lower_states=lower)
            lower = reference.lower_states
            policy = self._forward(self.model, POLICY, part, keep, lower_states=lower)
            row = {
                "logps": policy.log_probs,
                "ref_logps": reference.log_probs,
                "values": policy.state_values,
                "lower_states": lower,
            }
            if self.rewards.own is not None:
                reward = self._forward(self.model, REWARD, part, keep, lower_states=lower)
                ends = lengths[start : start + size, None]
                row["own_scores"] = reward.state_values.gather(1, ends).squeeze(1)  # pyright: ignore[reportOptionalMemberAccess]
            for name, tensor in row.items():
                if tensor is not None:
                    found.setdefault(name, []).append(
                        tensor.float() if name != "lower_states" else tensor
                    )
        names = ("logps", "ref_logps", "values", "own_scores", "lower_states")
        return {name: torch.cat(found[name]) if name in found else None for name in names}

    def _summed(self, here: torch.Tensor) -> Any:
        """The tensor added up over all processes."""
        return self.accelerator.reduce(here, reduction="sum")

    def _adapt_kl_coef(self, kl: float) -> None:
        """This rollout's updates keep the coefficient it was scored with; the next one takes the adapted one."""
        self._loss_kl_coef = self.kl_coef
        if self.ppo.kl_target is not None:
            self.kl_coef = ppo_math.adapted_kl_coef(
                self.kl_coef, kl, self.ppo.kl_target, self.ppo.batch_size, self.ppo.kl_horizon
            )

    def _keep_samples(
        self, inputs: list[dict[str, Any]], scores: torch.Tensor, kl: torch.Tensor
    ) -> None:
        self.samples = [
            {
                "prompt": text_of(inputs[i]["prompt"]),
                "completion": self._texts[i],
                "reward": float(scores[i]),
                "kl": float(kl[i]),
                "finished": bool(self._finished[i]),
            }
            for i in range(min(self.ppo.num_sample_completions, len(inputs)))
        ]

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, with the order of the rollout drawn anew for each PPO epoch."""
        steps = self.args.steps_per_generation
        fresh = self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None
        if self.model.training and not fresh and self._step % steps == 0:
            keys = self._buffered_inputs[0]
            whole = {k: _joined([chunk[k] for chunk in self._buffered_inputs]) for k in keys}
            self._buffered_inputs = split_tensor_dict(shuffle_sequence_dict(whole), steps)  # pyright: ignore[reportArgumentType]
        return super()._prepare_inputs(generation_batch)

    # Invariants

    def _check_invariants(self, rollout: dict[str, Any], kl: torch.Tensor) -> None:
        """A second pass gives ratio 1; before the first update the policy is the reference, KL 0.

        The first pass is repeated over the whole model: where the shared lower trunk does not give the same, it is
        switched off, with the reason in `not_shared`.
        """
        inputs, keep = self._inputs(rollout), rollout["completion_ids"].size(1)
        size = self.args.per_device_train_batch_size
        part = {name: tensor[:size] for name, tensor in inputs.items()}
        with torch.no_grad():
            again = self._forward(self.model, POLICY, part, keep)
        old, mask = rollout["old_per_token_logps"][:size], rollout["completion_mask"][:size]
        here = ((again.log_probs - old).abs() * mask).max()  # pyright: ignore[reportOperatorIssue]
        apart: Any = self.accelerator.gather(here)
        apart = apart.max()  # all processes must decide alike
        dtype = self._computing_dtype()
        if "lower_states" in rollout and apart > SAME_STATES[dtype]:
            self.not_shared = (
                f"with it log-probabilities of this model differ by {float(apart):.2g}"
            )
            self.trunk.lower = None
            del rollout["lower_states"]
        moved = float(kl.abs().max()) if self.state.global_step == 0 else 0.0
        check_start(float(apart), moved, mask.size(1), dtype)
        self._checked = True

    def _computing_dtype(self) -> torch.dtype:
        if self.args.bf16:
            return torch.bfloat16
        return torch.float16 if self.args.fp16 else self.trunk.base.dtype

    # The update

    def _warming_up(self) -> bool:
        updates = self.ppo.num_ppo_epochs * self.ppo.num_mini_batches
        return self.state.global_step // updates < self.ppo.critic_warmup_iterations

    def _last_micro_batch(self) -> bool:
        """Whether the micro-batch just done completes an update."""
        return self._step % self.current_gradient_accumulation_steps == 0

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One micro-batch; once the policy moved too far in a rollout, the rest of it is passed over."""
        started, self._rollout_seconds = time.perf_counter(), 0.0
        steps = self.args.steps_per_generation * self.num_iterations
        if self._skipping and self._step % steps:
            self._step += 1
            self._metrics["train"]["skipped"].append(1.0)
            return torch.zeros(
                (), device=self.accelerator.device
            )  # no gradient: the optimizer moves nothing
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._last_micro_batch() and not self.gradients.done:
            self.gradients.see(self.trunk.trainable(), counts=not self._warming_up())
        if self._last_micro_batch():
            moved, self._update_kls = sum(self._update_kls) / len(self._update_kls), []
            limit = self.ppo.max_kl_update
            self._skipping = limit is not None and moved > limit
            self._metrics["train"]["skipped"].append(0.0)
        self._update_seconds += time.perf_counter() - started - self._rollout_seconds
        if self._step % steps == 0:
            self._metrics["train"]["seconds_update"].append(self._update_seconds)
            self._metrics["train"]["memory_mb"].append(memory_mb())
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        mask = inputs["completion_mask"].float()
        warming_up = self._warming_up()
        out = self._forward(
            model,
            POLICY,
            self._inputs(inputs),
            mask.size(1),
            lower_states=inputs.get("lower_states"),
        )
        logps: Any = out.log_probs
        entropies: Any = out.entropy
        values: Any = out.state_values
        old_logps = inputs["old_per_token_logps"]
        policy, clipped = ppo_math.policy_losses(
            logps, old_logps, inputs["advantages"], self.ppo.cliprange
        )
        value, value_clipped = ppo_math.value_losses(
            values, inputs["old_values"], inputs["returns"], self.ppo.cliprange_value
        )
        ref_logps = inputs.get("ref_per_token_logps")
        per_token = ppo_math.loss_per_token(
            policy,
            value,
            entropies,
            None if ref_logps is None else ppo_math.kl_k3(logps, ref_logps),
            vf_coef=self.ppo.vf_coef,
            entropy_coef=self.ppo.entropy_coef,
            kl_coef=self._loss_kl_coef,
            policy_coef=0.0 if warming_up else 1.0,
        )
        # Each token of the rollout weighs the same, whichever micro-batch it falls into.
        tokens = (
            inputs["num_items_in_batch"]
            / self.accelerator.num_processes
            / self.args.steps_per_generation
        )
        moved = ppo_math.masked_mean(ppo_math.kl_k3(old_logps, logps.detach()), mask)
        self._record(
            policy_loss=(policy.detach() * mask).sum() / tokens,
            value_loss=(value.detach() * mask).sum() / tokens,
            entropy=ppo_math.masked_mean(entropies.detach(), mask),
            clip_fraction=ppo_math.masked_mean(clipped, mask),
            value_clip_fraction=ppo_math.masked_mean(value_clipped, mask),
            approx_kl=moved,
        )
        self._update_kls.append(self._metrics["train"]["approx_kl"][-1])
        return (per_token * mask).sum() / tokens / self.current_gradient_accumulation_steps

    def _record(self, **figures: Any) -> None:
        """Keep figures for the next log; tensors are averaged over the processes."""
        for name, figure in figures.items():
            if isinstance(figure, torch.Tensor):
                mean: Any = self.accelerator.reduce(figure.float(), reduction="mean")
                figure = mean.item()
            if figure is not None:
                self._metrics["train"][name].append(figure)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Reporters get the watch's row and the sample completions. TRL's figures stay out: its reward is always 0."""
        figures, self._metrics["train"] = self._metrics["train"], defaultdict(list)
        if not figures:  # the summary at the end of training
            return super().log(logs, start_time)
        row = self.row_of({**logs, **{name: fmean(told) for name, told in figures.items()}})
        if self.args.report_to and self.samples:
            row = {**row, "samples": _as_text(self.samples)}
        super().log(row, start_time)
        self.state.log_history[-1].pop("samples", None)  # each checkpoint writes the history
        return None

    def create_optimizer(self, model: Any = None) -> Any:
        """As transformers', with a learning rate of its own for the value where one is asked for."""
        rate = self.ppo.critic_learning_rate
        if rate is None or self.optimizer is not None:
            return super().create_optimizer()
        trains = self.trunk.trainable()
        groups = [
            {"params": [p for n, p in trains.items() if f".{POLICY}." in n]},
            {"params": [p for n, p in trains.items() if f".{POLICY}." not in n], "lr": rate},
        ]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = kind(groups, **options)
        return self.optimizer

    # Checkpoints

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes a model card into each checkpoint; Concord's is made from a finished run."""

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """What trains, and what the objective remembers; the base and the reward model lie elsewhere already."""
        if not self.args.should_save:
            return
        source: dict[str, Any] = state_dict or self.trunk.trainable()
        tensors = {name: source[name] for name in self.trunk.trainable()}
        state = {"kl_coef": self.kl_coef, "watch": self.extra_state()}
        save_state(Path(output_dir or self.args.output_dir), tensors, state)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process leaves its random state there
            if self.args.should_save:
                mark_complete(folder)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not could_not_write(error):
                raise
            raise InputError(
                f"The checkpoint {folder} could not be written ({error}). The last good checkpoint was kept: free some "
                "space, then go on with `concord runs resume`."
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_state(Path(resume_from_checkpoint), self.trunk.trainable())
        self.kl_coef = state["kl_coef"]


def memory_mb() -> float:
    """Peak memory of this process so far: of the accelerator where there is one, resident otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _as_text(samples: Sequence[dict[str, Any]]) -> str:
    """Sample completions for people, in Markdown as TensorBoard shows it."""
    return "\n\n".join(
        f"**{one['prompt']}** {one['completion']} (reward {one['reward']:+.2f}, KL {one['kl']:.2f})"
        for one in samples
    )


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor) and parts[0].ndim > 0:
        return torch.cat(parts)
    return parts[0]


def score_sequences(
    trunk: Trunk, sequences: Sequence[torch.Tensor], batch_size: int
) -> torch.Tensor:
    """Raw reward-model scores [n] of whole sequences (prompt and completion ids)."""
    return _in_batches(trunk, lambda *rows: (trunk.scores(*rows),), sequences, batch_size)[0]


def scores_and_deviations(
    trunk: Trunk, sequences: Sequence[torch.Tensor], batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`score_sequences`, and the standard deviation [n] of those scores over the reward model's heads."""
    scores, deviations = _in_batches(trunk, trunk.scores_and_deviation, sequences, batch_size)
    return scores, deviations


def _in_batches(
    trunk: Trunk,
    measure: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]],
    sequences: Sequence[torch.Tensor],
    batch_size: int,
) -> list[torch.Tensor]:
    device = next(trunk.model.parameters()).device
    found = []
    for start in range(0, len(sequences), batch_size):
        part = list(sequences[start : start + batch_size])
        ids = pad(part, padding_value=0, padding_side="right").to(device)
        mask = pad([torch.ones_like(s) for s in part], padding_value=0, padding_side="right").to(
            device
        )
        found.append(measure(ids, mask))
    return [torch.cat(part).cpu() for part in zip(*found, strict=True)]
