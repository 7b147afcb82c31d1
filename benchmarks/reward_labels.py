"""`python -m benchmarks.reward --labels`: what labels are worth to the reward model that learns from them, over seeds.

300 prompts, 3 rankings each, 5 of 12 labelers unreliable in four ways: by chance, mixed, mixed with three who read the
scale backwards, and all five backwards. The model learns from the consensus and from the majority, soft and hard.
Beside them: the true labels of all or of fewer prompts, and true labels of which some are flipped at random. Each model
is held against the truth on 300 further prompts. "Truth" is the courtesy by which careful labelers judge.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np

from alignment.config import RewardTrainingConfig, SimulateConfig
from alignment.demo import demo_config
from alignment.feedback.courtesy import courtesy
from alignment.models.demo_language import demo_prompts
from alignment.records import PreferencePair, Prompt, text_of
from benchmarks.reward_trust import PROMPTS, VALIDATION, Labels, grouped, sampled, trained

FURTHER = 300
HONEST = {"careful": 5, "noisy": 2}
POOLS = {
    "random": {**HONEST, "random": 5, "reversed": 0, "position_biased": 0},
    "mixed": {**HONEST, "random": 2, "reversed": 2, "position_biased": 1},
    "three_backwards": {**HONEST, "random": 1, "reversed": 3, "position_biased": 1},
    "all_backwards": {**HONEST, "random": 0, "reversed": 5, "position_biased": 0},
}
PARTS = (16, 8, 4, 2)  # true labels of every so many prompts
FLIPPED = (0.2, 0.35)
TRAININGS = 3  # of the mixed pool and of the truth, each with its own split and start: they scatter by 2 points
GOAL = 8.0  # points over the majority's soft labels


def labels(seeds: list[int]) -> tuple[dict[str, Any], bool]:
    """The figures of each seed, their means, and whether the goal is reached with every pool."""
    by_seed = {str(seed): one_seed(seed) for seed in seeds}
    names = next(iter(by_seed.values()))
    means = {
        name: float(np.mean([figures[name] for figures in by_seed.values()])) for name in names
    }
    reached = all(means[f"{name}_points_over_majority"] >= GOAL for name in POOLS)
    return {"mean": means, "seeds": by_seed}, reached


def one_seed(seed: int) -> dict[str, float]:
    """The share of the further pairs that a model trained on each kind of labels orders rightly."""
    prompts = [p for p in demo_prompts(PROMPTS, 64, seed) if p.split == "train"]
    completions = sampled(prompts, seed)
    further = further_pairs(prompts, seed)
    config = demo_config(seed).reward.model_copy(update={"validation_fraction": VALIDATION})
    ordered = config.model_copy(update={"soft_labels": False})
    figures: dict[str, float] = {}

    def learn(name: str, labels: Labels, options: RewardTrainingConfig, times: int = 1) -> None:
        right = [
            trained(labels, options.model_copy(update={"seed": seed + 100 * time}), further)
            for time in range(times)
        ]
        shares = [one["further_accuracy"] for one in right]
        figures[f"{name}_right"] = float(np.mean(shares))
        print(f"seed {seed}: {name} " + " ".join(f"{share:.3f}" for share in shares), flush=True)

    for name, unreliable in POOLS.items():
        pool = SimulateConfig(seed=seed, **unreliable)  # pyright: ignore[reportCallIssue]
        consensus = Labels(prompts, completions, pool, "auto")
        majority = Labels(prompts, completions, pool, "majority")
        figures[f"{name}_consensus_labels_right"] = consensus.share_right()
        figures[f"{name}_majority_labels_right"] = majority.share_right()
        times = TRAININGS if name == "mixed" else 1
        learn(f"{name}_consensus", consensus, config, times)
        learn(f"{name}_majority", majority, config, times)
        learn(f"{name}_hard_majority", majority, ordered, times)
        gain = figures[f"{name}_consensus_right"] - figures[f"{name}_majority_right"]
        figures[f"{name}_points_over_majority"] = 100 * gain

    truth = Labels(prompts, completions, SimulateConfig(seed=seed), "auto")  # pyright: ignore[reportCallIssue]
    every = truth.pairs = [truth.truly(pair) for pair in truth.pairs]
    learn("truth", truth, config, TRAININGS)
    for share in FLIPPED:
        truth.pairs = flipped(every, share, seed)
        learn(f"truth_{share:.0%}_flipped", truth, config)
    shuffled = [prompt.prompt_id for prompt in prompts]
    random.Random(seed).shuffle(shuffled)
    for part in PARTS:
        kept = set(shuffled[: len(prompts) // part])
        truth.pairs = [pair for pair in every if pair.prompt_id in kept]
        epochs = config.num_train_epochs * min(part, 4)  # fewer prompts, about as many updates
        longer = config.model_copy(update={"num_train_epochs": epochs})
        learn(f"truth_of_{len(kept)}_prompts", truth, longer)
    return figures


def further_pairs(prompts: list[Prompt], seed: int) -> list[PreferencePair]:
    """All pairs of unequal courtesy on prompts that are not among `prompts`, in their true order."""
    known = {text_of(prompt.prompt) for prompt in prompts}
    more = [p for p in demo_prompts(PROMPTS + FURTHER, 64, seed) if p.split == "train"]
    others = [p for p in more if text_of(p.prompt) not in known][:FURTHER]
    completions = sampled(others, seed + 1)
    worth = {c.completion_id: courtesy(c.text) for c in completions}
    texts = {c.completion_id: c.text for c in completions}
    by_id = {p.prompt_id: p.prompt for p in others}
    return [
        PreferencePair(by_id[prompt], texts[one], texts[other], 1.0, 1.0, prompt, one, other)
        for prompt, ids in grouped(completions).items()
        for one in ids
        for other in ids
        if worth[one] > worth[other]
    ]


def flipped(pairs: list[PreferencePair], share: float, seed: int) -> list[PreferencePair]:
    """The pairs, each the wrong way round with probability `share`; the soft labels know how often that happens."""
    rng = np.random.default_rng(seed)
    out = []
    for pair in pairs:
        p = pair.probability * (1 - share) + (1 - pair.probability) * share
        if rng.random() < share:
            pair = replace(
                pair,
                chosen=pair.rejected,
                rejected=pair.chosen,
                chosen_id=pair.rejected_id,
                rejected_id=pair.chosen_id,
            )
        out.append(replace(pair, probability=p, confidence=p))
    return out
