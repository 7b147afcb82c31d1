"""Simulated pools whose truth is known, and the oracle that knows the labelers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from alignment.feedback.ranking_table import RankingTable, centred_places
from alignment.feedback.simulation import FAULTS, NoiseFamily, standard_noise

MIXED = {"careful": 5, "noisy": 3, "random": 2, "reversed": 1, "position-biased": 1}
HONEST = {"careful": 8, "noisy": 4}

ORACLE_DRAWS = 4000
ORACLE_NOISES = 250


@dataclass(frozen=True)
class Pool:
    """Rankings as a table, the true utilities (P, K) in its columns, and the kind of each labeler."""

    table: RankingTable
    utilities: np.ndarray
    kinds: list[str]


def simulate_pool(
    prompts: int,
    completions: int,
    per_prompt: int,
    counts: dict[str, int],
    seed: int,
    noise: NoiseFamily,
) -> Pool:
    """Standard normal utilities, ranked by a pool of labelers; each prompt by `per_prompt` of them."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    slope, spread, pull = np.array([FAULTS[kind] for kind in kinds]).T
    utilities = rng.standard_normal((prompts, completions))
    drawn = np.argsort(rng.random((prompts, len(kinds))), axis=1)[:, :per_prompt]
    labeler = np.sort(drawn, axis=1).ravel()
    prompt = np.repeat(np.arange(prompts), per_prompt)
    shape = (len(prompt), completions)
    places = np.argsort(rng.random(shape), axis=1)
    x = centred_places(places, np.ones(shape, int))
    y = (
        slope[labeler, None] * utilities[prompt]
        + pull[labeler, None] * x
        + spread[labeler, None] * standard_noise(noise, shape, rng)
    )
    ranks = np.argsort(np.argsort(-y, axis=1), axis=1) + 1
    width = len(str(prompts))
    names = [f"p{p:0{width}d}" for p in range(prompts)]
    table = RankingTable(
        names,
        [f"labeler-{i:03d}" for i in range(len(kinds))],
        [[f"{name}c{k}" for k in range(completions)] for name in names],
        prompt,
        labeler,
        ranks.astype(np.int8),
        places.astype(np.int16),
        np.zeros(len(ranks), bool),
    )
    return Pool(table, utilities, kinds)


class Oracle:
    """The exact Bayes posterior of someone who knows every labeler's kind and noise, by importance sampling.

    P(order | u) of each kind is counted over simulated noise at a common set of draws of u from the prior.
    """

    def __init__(self, completions: int, noise: NoiseFamily) -> None:
        rng = np.random.default_rng(12345)
        self.draws = rng.standard_normal((ORACLE_DRAWS, completions))
        self.noises = standard_noise(noise, (ORACLE_NOISES, completions), rng)
        self.orders = list(itertools.permutations(range(completions)))
        self.codes = np.array([_code(np.array(order)[None])[0] for order in self.orders])
        self.tables: dict[tuple, np.ndarray] = {}

    def log_likelihood(self, kind: str, places: tuple[int, ...]) -> np.ndarray:
        """(draws, orders) log P(order | u) of a labeler of `kind` who sees the completions at `places`."""
        slope, spread, pull = FAULTS[kind]
        key = (kind, places if pull else None)
        if key not in self.tables:
            x = centred_places(np.array([places]), np.ones((1, len(places)), int))[0]
            base = slope * self.draws + pull * x
            counts = np.zeros((len(self.draws), len(self.orders)))
            for e in self.noises:
                order = np.argsort(-(base + spread * e), axis=1)
                counts[np.arange(len(base)), np.searchsorted(self.codes, _code(order))] += 1
            self.tables[key] = np.log((counts + 0.1) / (len(self.noises) + 0.1 * len(self.orders)))
        return self.tables[key]

    def confidence(self, pool: Pool) -> np.ndarray:
        """(P, N) posterior probability that the first completion of each pair is better."""
        table = pool.table
        order = np.searchsorted(self.codes, _code(np.argsort(table.ranks, axis=1)))
        log_weight = np.zeros((len(table.prompt_ids), len(self.draws)))
        for r, (p, labeler) in enumerate(zip(table.prompt, table.labeler, strict=True)):
            known = self.log_likelihood(pool.kinds[labeler], tuple(table.places[r].tolist()))
            log_weight[p] += known[:, order[r]]
        weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        first, second = np.triu_indices(table.ranks.shape[1], 1)
        better = (self.draws[:, first] > self.draws[:, second]).astype(float)
        return weight @ better / weight.sum(axis=1, keepdims=True)


def _code(order: np.ndarray) -> np.ndarray:
    """(R,) one whole number per permutation, in lexicographic order."""
    return order @ (order.shape[1] ** np.arange(order.shape[1])[::-1])


def pair_truth(utilities: np.ndarray) -> np.ndarray:
    """(P, N) bool: the first completion of each pair is truly better."""
    first, second = np.triu_indices(utilities.shape[1], 1)
    return utilities[:, first] > utilities[:, second]


def right_share(confidence: np.ndarray, truth: np.ndarray) -> float:
    """Share of pairs ordered rightly; a pair that is left level counts half."""
    return float(np.mean(np.where(confidence == 0.5, 0.5, (confidence > 0.5) == truth)))


def log_loss(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log probability of the truth, in nats; certainty is clipped at 1e-6."""
    p = np.clip(np.where(truth, probability, 1 - probability), 1e-6, 1)
    return float(-np.log(p).mean())


def calibration_error(confidence: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the confidence in the order given, over equal bins of [1/2, 1]
    (Naeini et al. 2015, AAAI)."""
    sure = np.maximum(confidence, 1 - confidence).ravel()
    right = np.where(confidence >= 0.5, truth, ~truth).ravel()
    which = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, sure - right, bins))
    return float(gap.sum() / count.sum())
