"""PPO from human feedback on a shared trunk: a subclass of TRL's `GRPOTrainer`.

TRL gives generation, buffering, distribution, logging and saving; what makes it PPO is added here: a critic, the
token-level KL penalty in the reward, GAE, and the clipped value loss. The hooks of GRPOTrainer that are overridden
are private: `tests/test_ppo_contract.py` fails with a clear message when TRL moves one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import pad, shuffle_sequence_dict, split_tensor_dict

from alignment.config import PPOTrainingConfig
from alignment.errors import TrainingError
from alignment.models.loading import encode_prompt
from alignment.models.trunk import Trunk
from alignment.training import ppo_math

RATIO_TOLERANCE = 1e-3


class PPOTrainer(GRPOTrainer):
    """`GRPOTrainer` with a critic and token-level advantages. Advantages are [B, T]; group baselines are not used."""

    def __init__(self, trunk: Trunk, config: PPOTrainingConfig, **kwargs: Any) -> None:
        self.trunk, self.ppo = trunk, config
        self._scores: torch.Tensor | None = None
        self._checked = False
        self.model: Any
        self.args: Any
        super().__init__(model=trunk.model, reward_funcs=[self.reward_model], **kwargs)  # pyright: ignore[reportArgumentType]
        trunk.add_value_output()

    def reward_model(self, prompts: list, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Raw score of each completion, by the reward role of the trunk. The signature is TRL's for a reward."""
        tokenizer = self.processing_class
        sequences = [
            torch.tensor(encode_prompt(tokenizer, prompt) + ids)  # pyright: ignore[reportArgumentType]
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        return score_sequences(
            self.trunk, sequences, self.args.per_device_train_batch_size
        ).tolist()

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        gathered = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if not torch.isfinite(gathered).all():
            raise TrainingError(
                "The reward of a completion is not a number. Check the reward model (its loss may have diverged); "
                "nothing was updated with it."
            )
        mine = self.accelerator.process_index * len(prompts)
        self._scores = gathered[mine : mine + len(prompts), 0]
        ends = set(self.eos_token_ids)
        self._finished = torch.tensor(
            [bool(ids) and ids[-1] in ends for ids in completion_ids_list]
        )
        return gathered

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, **kwargs
    ):
        logps, entropies, _ = self._forward(model, input_ids, attention_mask, logits_to_keep)
        return logps, entropies, None

    def _forward(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, keep: int
    ) -> tuple:
        """Log-probabilities, entropies and values of the last `keep` tokens, each [B, keep]."""
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        labels[:, :-keep] = -100
        with self.accelerator.autocast():
            out = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                labels=labels,
                fused_lm_head=True,
            )
        return out.log_probs[:, -keep:], out.entropy[:, -keep:], out.state_values[:, -keep:]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        rollout = super()._generate_and_score_completions(inputs)
        generated = time.perf_counter()
        mask = rollout["completion_mask"].float()
        device = mask.device
        logps, ref_logps, values = self._rollout_passes(rollout)
        scores = ppo_math.normalised_scores(
            self._scores.to(device),  # pyright: ignore[reportOptionalMemberAccess]
            self._finished.to(device),
            self.trunk.scale.mean,
            self.trunk.scale.std,
            self.ppo.reward_clip,
            self.ppo.missing_eos_penalty,
        )
        rewards = ppo_math.token_rewards(scores, logps, ref_logps, mask, self.ppo.kl_coef)
        advantages, returns = ppo_math.gae(rewards, values, mask, self.ppo.gamma, self.ppo.lam)
        mean, var = self._moments(advantages, mask)
        rollout["advantages"] = ppo_math.masked_whiten(advantages, mask, mean, var)
        rollout["old_per_token_logps"] = logps
        rollout["old_values"], rollout["returns"] = values, returns
        kl = ((logps - ref_logps) * mask).sum(1)
        self._record(
            reward_score=scores.mean(),
            kl=kl.mean(),
            explained_variance=ppo_math.explained_variance(values, returns, mask),
            finished=self._finished.float().mean(),
            seconds_generation=generated - started,
            seconds_scoring=time.perf_counter() - generated,
        )
        if not self._checked:
            self._check_invariants(rollout, kl)
        return rollout

    def _rollout_passes(
        self, rollout: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Policy log-probs, reference log-probs and values of a whole rollout, by the training forward; no gradient."""
        ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)
        attention = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)
        keep = rollout["completion_ids"].size(1)
        policy, reference, values = [], [], []
        with torch.no_grad():
            for part, mask in zip(
                ids.split(self.args.per_device_train_batch_size),
                attention.split(self.args.per_device_train_batch_size),
                strict=True,
            ):
                logps, _, value = self._forward(self.model, part, mask, keep)
                with self.trunk.role(None):
                    ref, _, _ = self._forward(self.model, part, mask, keep)
                policy, reference, values = [*policy, logps], [*reference, ref], [*values, value]
        return torch.cat(policy), torch.cat(reference), torch.cat(values)

    def _moments(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of `x` on the mask, over all processes."""
        sums = torch.stack([(x * mask).sum(), (x * x * mask).sum(), mask.sum()])
        total, squares, count = self.accelerator.reduce(sums, reduction="sum")
        mean = total / count.clamp(min=1)
        return mean, squares / count.clamp(min=1) - mean**2

    def _check_invariants(self, rollout: dict[str, Any], kl: torch.Tensor) -> None:
        """Before the first update the policy is the reference: KL 0, and the ratio of a second forward is 1."""
        again, _, _ = self._rollout_passes(rollout)
        mask = rollout["completion_mask"]
        ratio = (((again - rollout["old_per_token_logps"]).exp() - 1).abs() * mask).max()
        if ratio > RATIO_TOLERANCE or kl.abs().max() > RATIO_TOLERANCE * mask.size(1):
            raise TrainingError(
                f"Before the first update the policy should equal the reference, but the ratio is off by "
                f"{float(ratio):.2g} and the KL is {float(kl.abs().max()):.2g}. Turn off dropout in the base model, or "
                "start from a fresh adapter."
            )
        self._checked = True

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, with the order of the rollout drawn anew for each PPO epoch."""
        steps = self.args.steps_per_generation
        fresh = self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None
        if self.model.training and not fresh and self._step % steps == 0:
            keys = self._buffered_inputs[0]
            whole = {k: _joined([chunk[k] for chunk in self._buffered_inputs]) for k in keys}
            self._buffered_inputs = split_tensor_dict(shuffle_sequence_dict(whole), steps)  # pyright: ignore[reportArgumentType]
        return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        mask = inputs["completion_mask"].float()
        logps, entropies, values = self._forward(model, ids, attention, mask.size(1))
        policy, clipped = ppo_math.policy_losses(
            logps, inputs["old_per_token_logps"], inputs["advantages"], self.ppo.cliprange
        )
        value, value_clipped = ppo_math.value_losses(
            values, inputs["old_values"], inputs["returns"], self.ppo.cliprange_value
        )
        # Each token of the rollout weighs the same, whichever micro-batch it falls into.
        tokens = (
            inputs["num_items_in_batch"]
            / self.accelerator.num_processes
            / self.args.steps_per_generation
        )
        per_token = (policy + self.ppo.vf_coef * value) * mask
        self._record(
            policy_loss=(policy.detach() * mask).sum() / tokens,
            value_loss=(value.detach() * mask).sum() / tokens,
            entropy=ppo_math.masked_mean(entropies.detach(), mask),
            clip_fraction=ppo_math.masked_mean(clipped, mask),
            value_clip_fraction=ppo_math.masked_mean(value_clipped, mask),
            approx_kl=ppo_math.masked_mean(inputs["old_per_token_logps"] - logps.detach(), mask),
        )
        return per_token.sum() / tokens / self.current_gradient_accumulation_steps

    def _record(self, **figures: Any) -> None:
        """Keep figures for the next log; tensors are averaged over the processes."""
        for name, figure in figures.items():
            if isinstance(figure, torch.Tensor):
                mean: Any = self.accelerator.reduce(figure.float(), reduction="mean")
                figure = mean.item()
            if figure is not None:
                self._metrics["train"][name].append(figure)


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor) and parts[0].ndim > 0:
        return torch.cat(parts)
    return parts[0]


def score_sequences(
    trunk: Trunk, sequences: Sequence[torch.Tensor], batch_size: int
) -> torch.Tensor:
    """Raw reward-model scores [n] of whole sequences (prompt and completion ids)."""
    device = next(trunk.model.parameters()).device
    scores = []
    for start in range(0, len(sequences), batch_size):
        part = list(sequences[start : start + batch_size])
        ids = pad(part, padding_value=0, padding_side="right").to(device)
        mask = pad([torch.ones_like(s) for s in part], padding_value=0, padding_side="right").to(
            device
        )
        scores.append(trunk.scores(ids, mask))
    return torch.cat(scores).cpu()
