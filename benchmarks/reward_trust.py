"""`python -m benchmarks.reward --demo`: what the reward model's trust figures are on the demo language, over seeds.

Each seed: 300 prompts, 4 completions each by the demo base model, 3 rankings each by simulated labelers. In the default
pool 4 of 12 labelers are unreliable (2 random, 1 reversed, 1 position-biased). "Truth" is the courtesy by which careful
labelers judge, which no training sees.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from alignment.config import RewardTrainingConfig, SimulateConfig
from alignment.demo import demo_config
from alignment.demo_base import ensure_demo_model
from alignment.feedback.consensus import fit_consensus
from alignment.feedback.courtesy import courtesy
from alignment.feedback.labeler_votes import labeler_evidence
from alignment.feedback.pairs import preference_pairs, split_by_prompt
from alignment.feedback.simulation import FAULTS, simulate_rankings
from alignment.files import read_json
from alignment.models.demo_language import demo_prompts
from alignment.models.loading import load_causal_lm, load_tokenizer
from alignment.records import Completion, PreferencePair, Prompt
from alignment.sampling import as_completions, sample_completions
from alignment.training.reward import train_reward
from alignment.training.reward_trust import calibration, log_losses

PROMPTS = 300
VALIDATION = 0.2  # a temperature fitted on a tenth of the prompts scatters more
GOALS = {"accuracy_of_ceiling": 0.95, "ece": 0.03, "nats_saved": 0.0}


def demo(seeds: list[int]) -> tuple[dict[str, Any], bool]:
    """The figures of each seed and their means, and whether the goals are reached: the means, the ECE by each seed."""
    by_seed = {str(seed): one_seed(seed) for seed in seeds}
    means = {
        name: float(np.mean([figures[name] for figures in by_seed.values()]))
        for name, value in next(iter(by_seed.values())).items()
        if isinstance(value, float)
    }
    reached = (
        means["accuracy_of_ceiling"] >= GOALS["accuracy_of_ceiling"]
        and max(figures["ece"] for figures in by_seed.values()) <= GOALS["ece"]
        and means["nats_saved_by_soft_labels"] > GOALS["nats_saved"]
    )
    return {"mean": means, "seeds": by_seed}, reached


def one_seed(seed: int) -> dict[str, Any]:
    """Every comparison for one seed."""
    prompts = [p for p in demo_prompts(PROMPTS, 64, seed) if p.split == "train"]
    completions = sampled(prompts, seed)
    config = demo_config(seed).reward.model_copy(update={"validation_fraction": VALIDATION})
    groups = grouped(completions)
    default = Labels(prompts, completions, SimulateConfig(seed=seed), "auto")  # pyright: ignore[reportCallIssue]
    soft = trained(default, config)
    ordered = config.model_copy(update={"soft_labels": False})
    hard = trained(default, ordered)
    figures = {
        "accuracy": soft["accuracy"],
        "ceiling": soft["ceiling"],
        "accuracy_of_ceiling": soft["accuracy_of_ceiling"],
        "accuracy_of_own_consensus_ceiling": soft["accuracy"] / soft["ceiling_own"],
        "accuracy_of_all_labelers_agreement": soft["accuracy"] / soft["ceiling_all"],
        "truth_of_own_consensus_ceiling": soft["truth_on_consensus"] / soft["ceiling_own"],
        "ece": soft["ece"],
        "ece_against_truth": soft["truth_ece"],
        "truth_accuracy": soft["truth_accuracy"],
        **{
            f"{name}_{measure}": figures[measure]
            for measure in (
                "log_loss",
                "honest_log_loss",
                "truth_log_loss",
                "truth_log_loss_scaled",
            )
            for name, figures in (("soft", soft), ("hard", hard))
        },
        "nats_saved_by_soft_labels": hard["log_loss"] - soft["log_loss"],
        "honest_nats_saved_by_soft_labels": hard["honest_log_loss"] - soft["honest_log_loss"],
        "surer_half": soft["surer_half"],
        "other_half": soft["other_half"],
        "prompts": len(groups),
    }
    print(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
    return figures


def sampled(prompts: list[Prompt], seed: int) -> list[Completion]:
    """The demo base model's completions of the prompts."""
    base, config = ensure_demo_model(), demo_config(seed).sample
    drawn = sample_completions(
        load_causal_lm(base),
        load_tokenizer(base),
        prompts,
        config,
        config.completions_per_prompt,
        distinct_attempts=config.distinct_attempts,
    )
    return as_completions(prompts, drawn, "benchmark")


def grouped(completions: list[Completion]) -> dict[str, list[str]]:
    """Prompt id -> completion ids."""
    groups: dict[str, list[str]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion.completion_id)
    return groups


class Labels:
    """Simulated rankings, the pairs that a method makes of them, and the truth."""

    def __init__(
        self,
        prompts: list[Prompt],
        completions: list[Completion],
        pool: SimulateConfig,
        method: Any,
    ) -> None:
        self.pool, self.groups = pool, grouped(completions)
        self.utilities = {c.completion_id: courtesy(c.text) for c in completions}
        _, self.rankings = simulate_rankings(self.groups, self.utilities, pool)
        self.fitted = fit_consensus(self.rankings, self.groups, method=method, seed=pool.seed)
        texts = {c.completion_id: c.text for c in completions}
        by_id = {p.prompt_id: p.prompt for p in prompts}
        self.pairs = preference_pairs(self.fitted, by_id, texts)
        squares = [
            np.var([self.utilities[name] for name in ids], ddof=1) for ids in self.groups.values()
        ]
        self.spread = float(np.sqrt(np.mean(squares)))

    def prefers(self, first: str, second: str, kind: str = "careful") -> float:
        """The probability that a labeler of that kind ranks `first` above `second`, half of it where they are level."""
        gap = (self.utilities[first] - self.utilities[second]) / self.spread
        return float(norm.cdf(gap / (FAULTS[kind][1] * np.sqrt(2))))

    def share_right(self) -> float:
        """The share of the pairs that stand in the true order, half of it for those that are truly level."""
        truth = np.array([self.prefers(p.chosen_id, p.rejected_id) for p in self.pairs])
        return float(np.mean(truth > 0.5) + np.mean(truth == 0.5) / 2)

    def truly(self, pair: PreferencePair) -> PreferencePair:
        """The pair in its true order, with a careful labeler's probability."""
        p = self.prefers(pair.chosen_id, pair.rejected_id)
        if p >= 0.5:
            return replace(pair, probability=p, confidence=p)
        return replace(
            pair,
            chosen=pair.rejected,
            rejected=pair.chosen,
            chosen_id=pair.rejected_id,
            rejected_id=pair.chosen_id,
            probability=1 - p,
            confidence=1 - p,
        )

    def honest_prefer(self, first: str, second: str) -> float:
        """The share of the pool's honest labelers, careful and noisy, who would rank `first` above `second`."""
        counts = {"careful": self.pool.careful, "noisy": self.pool.noisy}
        votes = [n * self.prefers(first, second, kind) for kind, n in counts.items()]
        return sum(votes) / sum(counts.values())


def trained(
    labels: Labels, config: RewardTrainingConfig, further: list[PreferencePair] | None = None
) -> dict[str, float]:
    """Train on the labels, and hold the model against the consensus and the truth, and against `further` pairs."""
    base = ensure_demo_model()
    train, held_out = split_by_prompt(labels.pairs, config.held_out_fraction, config.seed)
    rows = [row.to_json() for row in labels.fitted.labelers]
    names = {pair.prompt_id for pair in held_out}
    evidence = labeler_evidence(labels.rankings, rows, names)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        result = train_reward(
            base, load_tokenizer(base), train, held_out, config, out, evidence=evidence
        )
        trust = read_json(out / "trust.json")
        scores = score_texts(base, out, held_out + (further or []))
    difference, truth, honest = [], [], []
    for pair in held_out:
        key = (pair.prompt_id, pair.chosen), (pair.prompt_id, pair.rejected)
        difference.append(scores[key[0]] - scores[key[1]])
        truth.append(labels.prefers(pair.chosen_id, pair.rejected_id))
        honest.append(labels.honest_prefer(pair.chosen_id, pair.rejected_id))
    gap, probability = np.array(difference), np.array(truth)
    sided = probability != 0.5
    right = np.sign(gap) == np.sign(probability - 0.5)
    ordered = [
        scores[p.prompt_id, p.chosen] > scores[p.prompt_id, p.rejected] for p in further or []
    ]
    return {
        "further_accuracy": float(np.mean(ordered)) if ordered else math.nan,
        "accuracy": result.accuracy,
        "ceiling": trust["ceiling"]["mean"],
        "ceiling_own": trust["ceiling_own_consensus"]["mean"],
        "ceiling_all": trust["ceiling_all_labelers"]["mean"],
        "accuracy_of_ceiling": trust["accuracy_of_ceiling"],
        "ece": result.ece,
        "surer_half": trust["uncertainty"]["accuracy_surer_half"],
        "other_half": trust["uncertainty"]["accuracy_other_half"],
        "truth_on_consensus": float(np.mean(probability > 0.5) + np.mean(~sided) / 2),
        "truth_accuracy": float(right[sided].mean()),
        "truth_ece": calibration(gap, probability, result.temperature)[0],
        "truth_log_loss": float(log_losses(gap, probability, 1.0).mean()),
        "log_loss": trust["log_loss"]["before"],
        "honest_log_loss": float(log_losses(gap, np.array(honest), 1.0).mean()),
        "truth_log_loss_scaled": float(log_losses(gap, probability, result.temperature).mean()),
    }


def score_texts(base: Path, folder: Path, pairs: list[Any]) -> dict[tuple[str, str], float]:
    """(prompt id, text) -> the saved reward model's score, by the shared trunk."""
    import torch
    from peft import LoraConfig

    from alignment.models.loading import encode_completion, encode_prompt
    from alignment.models.trunk import Trunk
    from alignment.training.ppo_trainer import score_sequences

    tokenizer = load_tokenizer(base)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    trunk = Trunk(load_causal_lm(base), lora)
    trunk.load_reward(folder)
    texts = {(p.prompt_id, t): p.prompt for p in pairs for t in (p.chosen, p.rejected)}
    sequences = [
        torch.tensor(encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, text))
        for (_, text), prompt in texts.items()
    ]
    return dict(zip(texts, score_sequences(trunk, sequences, 64).tolist(), strict=True))
