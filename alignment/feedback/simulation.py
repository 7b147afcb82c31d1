"""Simulated labelers with known faults, for demos, tests and the benchmark.

A labeler perceives  y = slope u + pull x + noise e  and ranks by it: u are the utilities in units of their spread
within prompts, x the display place (see `centred_places`), e standard noise. Careful and noisy labelers differ in
`noise`, a random clicker has no slope, a reversed one has slope -1, and a position-biased one is pulled by the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from alignment.config import SimulateConfig
from alignment.errors import InputError
from alignment.feedback.ranking_table import centred_places
from alignment.records import Ranking

NoiseFamily = Literal["gaussian", "gumbel"]

EULER_GAMMA = 0.5772156649015329
SECONDS_PER_COMPLETION = 8.0
SECONDS_SPREAD = 0.35  # standard deviation of the logarithm


@dataclass(frozen=True, slots=True)
class SimulatedLabeler:
    """A labeler and the truth about them."""

    labeler_id: str
    kind: str
    slope: float
    noise: float
    pull: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# slope, noise and pull of each kind; the noise is a multiple of the utilities' spread.
FAULTS = {
    "careful": (1.0, 0.45, 0.0),
    "noisy": (1.0, 1.5, 0.0),
    "random": (0.0, 1.0, 0.0),
    "reversed": (-1.0, 0.45, 0.0),
    "position-biased": (1.0, 0.45, 2.25),
}


def simulated_labelers(config: SimulateConfig) -> list[SimulatedLabeler]:
    """The pool that `config` describes, with ids like `sim-careful-1`."""
    counts = {
        "careful": config.careful,
        "noisy": config.noisy,
        "random": config.random,
        "reversed": config.reversed,
        "position-biased": config.position_biased,
    }
    return [
        SimulatedLabeler(f"sim-{kind}-{number}", kind, *FAULTS[kind])
        for kind, count in counts.items()
        for number in range(1, count + 1)
    ]


def simulate_rankings(
    completion_ids: Mapping[str, Sequence[str]],
    utilities: Mapping[str, float],
    config: SimulateConfig,
    *,
    noise: NoiseFamily = "gaussian",
) -> tuple[list[SimulatedLabeler], list[Ranking]]:
    """The pool and its rankings of every prompt, each prompt by `config.rankings_per_prompt` different labelers.

    `completion_ids`: prompt id -> completions. `utilities`: completion id -> how good it truly is, in any unit.
    Careful labelers tie completions of equal utility. Raises `InputError` where there is nothing to rank or a
    utility is missing.
    """
    _check(completion_ids, utilities)
    rng = np.random.default_rng(config.seed)
    pool = simulated_labelers(config)
    groups = assign(len(completion_ids), len(pool), config.rankings_per_prompt, rng)
    spread = _spread(completion_ids, utilities)
    rankings = []
    for (prompt_id, ids), group in zip(completion_ids.items(), groups, strict=True):
        u = np.array([utilities[name] for name in ids]) / spread
        order = rng.permutation(len(ids))
        shift = rng.permutation(len(group))
        for labeler, turn in zip(group, shift, strict=True):
            # Turned by one for each labeler: over K labelers each completion stands once at each place.
            places = (order + turn) % len(ids)
            ranks = rank_once(pool[labeler], u, places, noise, rng)
            rankings.append(
                Ranking(
                    prompt_id,
                    pool[labeler].labeler_id,
                    dict(zip(ids, ranks, strict=True)),
                    dict(zip(ids, places.tolist(), strict=True)),
                    _seconds(pool[labeler], len(ids), rng),
                    simulated=True,
                )
            )
    return pool, rankings


def rank_once(
    labeler: SimulatedLabeler,
    u: np.ndarray,
    places: np.ndarray,
    noise: NoiseFamily,
    rng: np.random.Generator,
) -> list[int]:
    """One labeler's ranks of completions with utilities `u` (K,) shown at `places` (K,)."""
    x = centred_places(places[None, :], np.ones((1, len(u)), int))[0]
    e = standard_noise(noise, len(u), rng)
    if labeler.kind == "careful":
        _, same = np.unique(u, return_inverse=True)
        e = e[same]  # equal utilities look equal to a careful labeler
    y = labeler.slope * u + labeler.pull * x + labeler.noise * e
    levels = np.unique(-y, return_inverse=True)[1]
    return (levels + 1).tolist()


def standard_noise(
    family: NoiseFamily, size: int | tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Noise of mean 0 and variance 1. Gumbel noise gives the Plackett-Luce model, Gaussian Thurstone's."""
    if family == "gaussian":
        return rng.standard_normal(size)
    return (rng.gumbel(size=size) - EULER_GAMMA) / (np.pi / np.sqrt(6))


def assign(prompts: int, labelers: int, per_prompt: int, rng: np.random.Generator) -> np.ndarray:
    """(prompts, per_prompt) distinct labelers for each prompt, everybody equally often, give or take one."""
    done = np.zeros(labelers)
    groups = np.empty((prompts, per_prompt), int)
    for group in groups:
        group[:] = np.argsort(done + rng.random(labelers))[:per_prompt]
        done[group] += 1
    return groups


def _spread(completion_ids: Mapping[str, Sequence[str]], utilities: Mapping[str, float]) -> float:
    """Standard deviation of the utilities within prompts; 1 where all are equal."""
    squares, freedom = 0.0, 0
    for ids in completion_ids.values():
        u = np.array([utilities[name] for name in ids])
        squares += float(((u - u.mean()) ** 2).sum())
        freedom += len(u) - 1
    return float(np.sqrt(squares / freedom)) or 1.0


def _seconds(labeler: SimulatedLabeler, completions: int, rng: np.random.Generator) -> float:
    """A plausible time to rank: log-normal around some seconds per completion; random clickers are quick."""
    pace = 0.25 if labeler.kind == "random" else 1.0
    return round(
        float(pace * SECONDS_PER_COMPLETION * completions * rng.lognormal(0, SECONDS_SPREAD)), 1
    )


def _check(completion_ids: Mapping[str, Sequence[str]], utilities: Mapping[str, float]) -> None:
    if not completion_ids:
        raise InputError("There are no prompts to rank. Sample completions first.")
    for prompt_id, ids in completion_ids.items():
        if len(set(ids)) != len(ids) or len(ids) < 2:
            raise InputError(
                f"Prompt {prompt_id!r} needs at least two different completions to be ranked; it has "
                f"{len(set(ids))}. Sample more completions for it or leave it out."
            )
        missing = [name for name in ids if name not in utilities]
        if missing:
            raise InputError(
                f"Completion {missing[0]!r} of prompt {prompt_id!r} has no utility. Score every completion first."
            )
        if not np.isfinite([utilities[name] for name in ids]).all():
            raise InputError(
                f"A completion of prompt {prompt_id!r} has a utility that is not a finite number."
            )
