"""Fitting the factor model (`factor_model`), and what a fit says of pairs of completions.

Departs from textbook factor analysis: EM runs from three starts (all honest, spectral, its mirror image), which are
compared at fixed hyper-parameters, and only the winner's hyper-parameters are then set by empirical Bayes. Compared
after that, a wrong start can win by its own prior. A start from one-coin accuracies was tried and never won.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from alignment.feedback.factor_model import (
    Hyper,
    Labelers,
    Layout,
    Scores,
    Utilities,
    by_labeler,
    evidence_bound,
    infer_labelers,
    infer_utilities,
    layout_of,
    moments,
    release,
)

START_ITERATIONS = 12
UNDECIDED = 1e-3  # nats
POWER_ITERATIONS = 25
MAX_ITERATIONS = 200
MAX_STEP = 16.0  # of the extrapolation, in EM steps
TOLERANCE = 1e-5  # largest change of any labeler's reliability
START_ROWS_PER_LABELER = 60
START_ROWS = 12_000


@dataclass(frozen=True, slots=True)
class FactorFit:
    """The fitted model. `bound` is the evidence lower bound, in nats."""

    labelers: Labelers
    utilities: Utilities
    hyper: Hyper
    layout: Layout
    bound: float
    iterations: int
    converged: bool


def honest_start(scores: Scores, hyper: Hyper) -> Labelers:
    """Everybody is an honest labeler."""
    return start_from(scores, np.full(scores.labelers, hyper.mu), hyper)


def start_from(scores: Scores, b: np.ndarray, hyper: Hyper) -> Labelers:
    """Labelers with the given reliabilities and otherwise the prior's values; gold counts as nearly noiseless."""
    full = np.ones(scores.labelers)
    anchored = scores.anchored
    return Labelers(
        b=np.where(anchored, 1.0, b),
        g=0 * full,
        var_b=np.where(anchored, 1e-6, hyper.tau2),
        var_g=np.where(anchored, 1e-12, hyper.tg2),
        cov=0 * full,
        s2=np.where(anchored, 0.02, np.clip(1.3 - b**2, 0.1, 1.3)),
        honest=np.where(anchored, 1.0, 1 - hyper.rho),
    )


def spectral_start(scores: Scores, layout: Layout, hyper: Hyper) -> Labelers:
    """Reliabilities from the leading eigenvector of the labelers' agreement, by power iteration.

    The agreement of l and m is the sum of z_l . z_m over shared prompts, scaled to 1 on the diagonal; off it, its
    expectation is proportional to b_l b_m (Parisi et al. 2014, PNAS 111:1253). The sign is that of the majority.
    """
    scale = 1 / np.sqrt(np.maximum(layout.fixed.zz, 1e-9))
    vector = np.ones(scores.labelers)
    for _ in range(POWER_ITERATIONS):
        pull = (scores.weight * (scale * vector)[scores.labeler])[:, None] * scores.z
        total = np.add.reduceat(pull, layout.starts, axis=0)
        vector = scale * by_labeler(scores, np.einsum("rk,rk->r", total[scores.prompt], scores.z))
        vector /= max(np.sqrt(np.mean(vector**2)), 1e-9)
    sign = 1 if vector.sum() >= 0 else -1
    return start_from(scores, np.clip(sign * hyper.mu * vector, -0.95, 0.95), hyper)


def iterate(
    scores: Scores,
    layout: Layout,
    labelers: Labelers,
    hyper: Hyper,
    *,
    released: bool,
    most: int = MAX_ITERATIONS,
    bound: float | None = None,
) -> FactorFit:
    """EM from `labelers` until no reliability moves by more than TOLERANCE, at most `most` times. `bound`: taken over
    where given."""
    free = ~scores.anchored
    trail = [labelers]
    converged = False
    iterations = 0
    while not converged and iterations < most:
        iterations += 1
        sums = moments(scores, layout, infer_utilities(scores, layout, labelers))
        after = infer_labelers(sums, labelers, hyper, layout.floor, scores.anchored)
        converged = bool(np.abs(after.b - labelers.b).max() < TOLERANCE)
        labelers = after
        if released and free.any():
            hyper = release(hyper, labelers, free)
        trail.append(labelers)
        if len(trail) == 3 and not converged:
            labelers = extrapolate(*trail, layout.floor)
            trail = [labelers]
    utilities = infer_utilities(scores, layout, labelers)
    if bound is None:
        bound = evidence_bound(scores, layout, utilities, labelers, hyper)
    return FactorFit(labelers, utilities, hyper, layout, bound, iterations, converged)


def extrapolate(first: Labelers, second: Labelers, third: Labelers, floor: np.ndarray) -> Labelers:
    """`third`, moved on along the direction in which EM converges slowest (SQUAREM, Varadhan and Roland 2008,
    Scandinavian Journal of Statistics 35:335, step length 3)."""
    path = np.stack(
        [np.concatenate([step.b, step.g, np.log(step.s2)]) for step in (first, second, third)]
    )
    r = path[1] - path[0]
    v = path[2] - path[1] - r
    length = np.sqrt((r @ r) / max(v @ v, 1e-30))
    if length <= 1:
        return third
    length = min(length, MAX_STEP)
    b, g, log_s2 = np.split(path[0] + 2 * length * r + length**2 * v, 3)
    return replace(
        third,
        b=np.clip(b, -1.2, 1.2),
        g=g,
        s2=np.maximum(np.exp(log_s2), np.minimum(floor, third.s2)),
    )


def best_start(scores: Scores, layout: Layout, hyper: Hyper) -> FactorFit:
    """The best of three starts after some EM steps at fixed hyper-parameters: honest, spectral, spectral mirrored.

    Where the spectral fit and its mirror image are equally good, nothing tells upright from reversed labelers, and the
    honest start, which takes no side, is kept.
    """
    spectral = spectral_start(scores, layout, hyper)
    mirrored = replace(spectral, b=np.where(scores.anchored, spectral.b, -spectral.b))
    fits = [
        iterate(scores, layout, start, hyper, released=False, most=START_ITERATIONS)
        for start in (honest_start(scores, hyper), spectral, mirrored)
    ]
    if abs(fits[1].bound - fits[2].bound) < UNDECIDED:
        return fits[0]
    return max(fits, key=lambda fit: fit.bound)


def fit_factor_model(scores: Scores) -> FactorFit:
    """The best start at fixed hyper-parameters, then empirical Bayes.

    Where there are many prompts, a part of them chooses the start and comes close to the solution.
    """
    hyper = Hyper()
    part, part_layout = scores, layout = scores, layout_of(scores)
    rows = max(START_ROWS, START_ROWS_PER_LABELER * scores.labelers)
    if len(scores.prompt) > 2 * rows:
        part = every_nth_prompt(scores, len(scores.prompt) // rows)
        part_layout = layout_of(part)
    best = best_start(part, part_layout, hyper)
    if part is not scores:
        best = iterate(part, part_layout, best.labelers, hyper, released=True)
    return iterate(scores, layout, best.labelers, best.hyper, released=True)


def continue_fit(scores: Scores, labelers: Labelers, before: FactorFit, most: int) -> FactorFit:
    """EM goes on from `labelers` and an earlier fit's hyper-parameters, at most `most` steps. The bound is not computed
    anew: one ranking hardly moves it."""
    layout = layout_of(scores)
    return iterate(
        scores, layout, labelers, before.hyper, released=True, most=most, bound=before.bound
    )


def pick(labelers: Labelers, which: np.ndarray, hyper: Hyper) -> Labelers:
    """Labelers number `which`; -1 stands for a new one, of whom only the prior is known."""
    prior = {
        "b": hyper.mu,
        "g": 0.0,
        "var_b": hyper.tau2,
        "var_g": hyper.tg2,
        "cov": 0.0,
        "s2": hyper.s2,
    }
    prior["honest"] = 1 - hyper.rho
    return Labelers(
        *(np.where(which < 0, prior[f], getattr(labelers, f)[which]) for f in Labelers.__slots__)
    )


def every_nth_prompt(scores: Scores, step: int) -> Scores:
    """The rows of every `step`-th prompt."""
    keep = scores.prompt % step == 0
    prompt = scores.prompt[keep] // step
    return Scores(
        prompt,
        scores.labeler[keep],
        scores.z[keep],
        scores.x[keep],
        scores.ranked[keep],
        scores.weight[keep],
        scores.labelers,
        scores.anchored,
    )


def pair_differences(
    fit: FactorFit, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance, (P, N) each, of u[first] - u[second] for N pairs of columns.

    Ranks lose the spacing of the utilities. Part of that loss is the same for all labelers of a prompt, however many
    they are, which the model's independent noise does not know: it adds to the variance.
    """
    utilities = fit.utilities
    mean = utilities.mean[:, first] - utilities.mean[:, second]
    variance = np.repeat(2 / utilities.precision[:, None], len(first), axis=1)
    if len(utilities.mixed):
        v = utilities.covariance
        variance[utilities.mixed] = (
            v[:, first, first] + v[:, second, second] - 2 * v[:, first, second]
        )
    return mean, variance + 2 * fit.layout.shared_loss[:, None]


def order_confidence(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """P(u_i > u_j) = Phi(d / sqrt(v)) of the posterior mean d and variance v of the difference."""
    return ndtr(mean / np.sqrt(variance))


def honest_preference(
    mean: np.ndarray, variance: np.ndarray, hyper: Hyper, shared_loss: np.ndarray
) -> np.ndarray:
    """(P, N) probability that a typical honest labeler prefers i to j.

    A labeler who perceives utilities with correlation b prefers i with probability
    Phi(b d / sqrt(b^2 v + 2 (1 - b^2))); averaged over b ~ N(mu, tau2) by Gauss-Hermite quadrature with three nodes.
    The shared loss inflates b, which is taken back here.
    """
    total = np.zeros_like(mean)
    for node, weight in ((-np.sqrt(3), 1 / 6), (0.0, 2 / 3), (np.sqrt(3), 1 / 6)):
        b = np.clip(hyper.mu + node * np.sqrt(hyper.tau2), 0, 1) / (1 + shared_loss[:, None])
        total += weight * ndtr(b * mean / np.sqrt(b**2 * variance + 2 * (1 - b**2)))
    return total
