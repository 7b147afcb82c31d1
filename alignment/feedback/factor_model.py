"""The factor consensus: one latent utility per completion, one reliability, noise and position bias per labeler.

A ranking r by labeler l of prompt p becomes centred normal scores z (`ranking_table.normal_scores`), which follow

    z[r, k] = b[l] (u[p, k] - mean u[p]) + g[l] x[r, k] + e,    e ~ N(0, s2[l]),    u ~ N(0, 1),    g ~ N(0, tg2)
    b[l] ~ N(mu, tau2) with probability 1 - rho (honest), N(0, OUTLIER_VARIANCE) with probability rho (outlier)

with means over the completions that r ranks; x is the display place. Negative b is a labeler who reads the scale the
wrong way round. The fit is mean-field variational EM (Bishop 2006, section 10.1) with q(u) q(b, g) and a point
estimate of s2; every step is closed form. Where all rankings of a prompt rank the same completions the posterior
precision of u is one number per prompt, otherwise one K x K matrix. How it is
fitted: `factor_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from alignment.feedback.ranking_table import mean_square

OUTLIER_VARIANCE = 0.5
# Empirical Bayes may not shrink the labelers' differences away, as it tends to with few rankings per labeler.
LEAST_TAU2 = 0.02
LEAST_RHO = 0.05
# The share of what ranking loses that all labelers of a prompt lose alike. Measured on simulated pools of 2 to 9
# completions and 2 to 8 rankings per prompt; without it, confidence is 2 to 5 points too high.
SHARED_LOSS = 0.25
NOISE_PRIOR_WEIGHT = 2.0  # the prior on s2 counts as this many observed scores


@dataclass(frozen=True, slots=True)
class Scores:
    """Rankings as scores; rows sorted by prompt. `weight` 0.5 lets a ranking count for half."""

    prompt: np.ndarray  # (R,) int, ascending, each of 0..P-1 present
    labeler: np.ndarray  # (R,) int
    z: np.ndarray  # (R, K) centred normal scores, 0 where unranked
    x: np.ndarray  # (R, K) centred display places, 0 where unknown
    ranked: np.ndarray  # (R, K) bool
    weight: np.ndarray  # (R,)
    labelers: int
    anchored: np.ndarray  # (L,) bool: labelers whose parameters stay fixed (gold)


@dataclass(frozen=True, slots=True)
class Hyper:
    """The priors over labelers."""

    mu: float = 0.85
    tau2: float = 0.08
    rho: float = 0.3
    tg2: float = 0.02
    s2: float = 0.6


@dataclass(frozen=True, slots=True)
class Labelers:
    """What is believed about the labelers: means, covariance of (b, g), noise variance, P(honest). All (L,)."""

    b: np.ndarray
    g: np.ndarray
    var_b: np.ndarray
    var_g: np.ndarray
    cov: np.ndarray
    s2: np.ndarray
    honest: np.ndarray

    @property
    def b2(self) -> np.ndarray:
        return self.b**2 + self.var_b

    @property
    def g2(self) -> np.ndarray:
        return self.g**2 + self.var_g

    @property
    def bg(self) -> np.ndarray:
        return self.b * self.g + self.cov


@dataclass(frozen=True, slots=True)
class Utilities:
    """The posterior of u: `mean` (P, K), and `precision` (P,) of its centred part or, for prompts with rankings of
    different completions (`mixed`, indices into P), covariances (Q, K, K)."""

    mean: np.ndarray
    precision: np.ndarray
    mixed: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True, slots=True)
class Moments:
    """Per labeler sums over his rankings, (L,): what the M-step needs of the data and of q(u)."""

    uu: np.ndarray  # E|Pu|^2
    uz: np.ndarray
    ux: np.ndarray
    zz: np.ndarray
    zx: np.ndarray
    xx: np.ndarray
    count: np.ndarray  # degrees of freedom


@dataclass(frozen=True, slots=True)
class Layout:
    """What the steps need to know of the rows again and again, computed once."""

    starts: np.ndarray  # (P,) first row of each prompt
    degrees: np.ndarray  # (R,) ranked completions less one
    breadth: np.ndarray  # (P,) distinct completions ranked, less one
    mixed: np.ndarray  # (Q,) prompts with rankings of different completions
    mixed_rows: np.ndarray  # (M,) their rows
    mixed_index: np.ndarray  # (M,) which of `mixed` each of these rows belongs to
    fixed: Moments  # the sums that do not depend on u
    floor: (
        np.ndarray
    )  # (L,) noise variance of a perfect labeler: ranks lose the spacing of the utilities
    shared_loss: np.ndarray  # (P,) variance per completion
    placed: bool  # are any display places known


def layout_of(scores: Scores) -> Layout:
    """The layout of `scores`."""
    prompt, ranked = scores.prompt, scores.ranked
    starts = np.flatnonzero(np.r_[True, np.diff(prompt) > 0])
    is_mixed = np.zeros(len(starts), bool)
    if ranked.all():
        breadth = np.full(len(starts), ranked.shape[1])
    else:
        any_ranked = np.logical_or.reduceat(ranked, starts, axis=0)
        is_mixed = (any_ranked != np.logical_and.reduceat(ranked, starts, axis=0)).any(axis=1)
        breadth = any_ranked.sum(axis=1)
    mixed = np.flatnonzero(is_mixed)
    mixed_rows = np.flatnonzero(is_mixed[prompt])
    sizes = ranked.sum(axis=1)
    degrees = sizes - 1.0

    def per_labeler(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return by_labeler(scores, np.einsum("rk,rk->r", a, b))

    zero = np.zeros(scores.labelers)
    fixed = Moments(
        zero,
        zero,
        zero,
        per_labeler(scores.z, scores.z),
        per_labeler(scores.z, scores.x),
        per_labeler(scores.x, scores.x),
        by_labeler(scores, degrees),
    )
    squares = np.array([1.0, 1.0, *(mean_square(n) for n in range(2, ranked.shape[1] + 1))])
    perfect = 1 / squares - 1
    lost = by_labeler(scores, degrees * perfect[sizes])
    return Layout(
        starts,
        degrees,
        breadth - 1.0,
        mixed,
        mixed_rows,
        np.searchsorted(mixed, prompt[mixed_rows]),
        fixed,
        np.maximum(lost / np.maximum(fixed.count, 1), 0.05),
        SHARED_LOSS * (1 - squares[breadth]),
        bool(scores.x.any()),
    )


def by_labeler(scores: Scores, values: np.ndarray) -> np.ndarray:
    """(L,) weighted sums of (R,) values."""
    return np.bincount(scores.labeler, scores.weight * values, scores.labelers)


def infer_utilities(scores: Scores, layout: Layout, labelers: Labelers) -> Utilities:
    """E-step: q(u) given the labelers.

    precision = I + sum_r E[b^2]/s2 P_r,  mean = precision^-1 sum_r (E[b] z_r - E[bg] x_r)/s2, P_r the centring
    matrix of the completions that r ranks.
    """
    row = scores.labeler
    pull = (scores.weight * (labelers.b / labelers.s2)[row])[:, None] * scores.z
    if layout.placed:
        pull -= (scores.weight * (labelers.bg / labelers.s2)[row])[:, None] * scores.x
    pull = np.add.reduceat(pull, layout.starts, axis=0)
    strength = scores.weight * (labelers.b2 / labelers.s2)[row]
    precision = 1 + np.add.reduceat(strength, layout.starts)
    mean = pull / precision[:, None]
    width = scores.z.shape[1]
    covariance = np.zeros((len(layout.mixed), width, width))
    if len(layout.mixed):
        rows = layout.mixed_rows
        added = strength[rows, None, None] * _centring(scores.ranked[rows])
        first = np.searchsorted(layout.mixed_index, np.arange(len(layout.mixed)))
        covariance = np.linalg.inv(np.eye(width) + np.add.reduceat(added, first, axis=0))
        mean[layout.mixed] = np.einsum("qij,qj->qi", covariance, pull[layout.mixed])
    return Utilities(mean, precision, layout.mixed, covariance)


def _centring(ranked: np.ndarray) -> np.ndarray:
    """(M, K, K) matrices that take the mean over the ranked completions away, of (M, K) bool."""
    inside = ranked.astype(float)
    matrix = -inside[:, :, None] * (inside / inside.sum(axis=1, keepdims=True))[:, None, :]
    diagonal = np.arange(ranked.shape[1])
    matrix[:, diagonal, diagonal] += inside
    return matrix


def moments(scores: Scores, layout: Layout, utilities: Utilities) -> Moments:
    """The labelers' sums given q(u)."""
    at_row = utilities.mean[scores.prompt]
    square = np.einsum("pk,pk->p", utilities.mean, utilities.mean)[scores.prompt]
    spread = layout.degrees / utilities.precision[scores.prompt]
    if len(layout.mixed):
        rows = layout.mixed_rows
        inside = scores.ranked[rows].astype(float)
        share = inside / inside.sum(axis=1, keepdims=True)
        centred = inside * (at_row[rows] - (share * at_row[rows]).sum(axis=1, keepdims=True))
        at_row[rows] = centred
        square[rows] = np.einsum("mk,mk->m", centred, centred)
        covariance = utilities.covariance[layout.mixed_index]
        common = np.einsum("mi,mij,mj->m", inside, covariance, share, optimize=True)
        spread[rows] = np.einsum("mii,mi->m", covariance, inside) - common
    return replace(
        layout.fixed,
        uu=by_labeler(scores, square + spread),
        uz=by_labeler(scores, np.einsum("rk,rk->r", at_row, scores.z)),
        ux=by_labeler(scores, np.einsum("rk,rk->r", at_row, scores.x))
        if layout.placed
        else layout.fixed.ux,
    )


def infer_labelers(
    sums: Moments, before: Labelers, hyper: Hyper, floor: np.ndarray, anchored: np.ndarray
) -> Labelers:
    """M-step: q(b, g) and s2 given q(u)."""
    honest = honest_probability(sums, before, hyper)
    prior_precision = honest / hyper.tau2 + (1 - honest) / OUTLIER_VARIANCE
    prior_pull = honest * hyper.mu / hyper.tau2
    # The posterior precision matrix of (b, g), and its inverse by Cramer's rule.
    bb = sums.uu / before.s2 + prior_precision
    gg = sums.xx / before.s2 + 1 / hyper.tg2
    bg = sums.ux / before.s2
    determinant = bb * gg - bg**2
    pull_b = sums.uz / before.s2 + prior_pull
    pull_g = sums.zx / before.s2
    after = Labelers(
        b=(gg * pull_b - bg * pull_g) / determinant,
        g=(bb * pull_g - bg * pull_b) / determinant,
        var_b=gg / determinant,
        var_g=bb / determinant,
        cov=-bg / determinant,
        s2=before.s2,
        honest=honest,
    )
    squared = squared_error(sums, after)
    s2 = (squared + NOISE_PRIOR_WEIGHT * hyper.s2) / (sums.count + NOISE_PRIOR_WEIGHT)
    after = replace(after, s2=np.maximum(s2, floor))
    if not anchored.any():
        return after
    return Labelers(
        *(np.where(anchored, getattr(before, f), getattr(after, f)) for f in Labelers.__slots__)
    )


def squared_error(sums: Moments, labelers: Labelers) -> np.ndarray:
    """(L,) expected sums of squares of e."""
    return (
        sums.zz
        - 2 * labelers.b * sums.uz
        - 2 * labelers.g * sums.zx
        + labelers.b2 * sums.uu
        + labelers.g2 * sums.xx
        + 2 * labelers.bg * sums.ux
    )


def honest_probability(sums: Moments, labelers: Labelers, hyper: Hyper) -> np.ndarray:
    """(L,) P(honest | data): both components of the prior against the likelihood of b."""
    information = np.maximum(sums.uu, 1e-9)
    estimate = (sums.uz - labelers.g * sums.ux) / information
    error = labelers.s2 / information
    log_honest = np.log1p(-hyper.rho) + _log_normal(estimate - hyper.mu, hyper.tau2 + error)
    log_outlier = np.log(hyper.rho) + _log_normal(estimate, OUTLIER_VARIANCE + error)
    return 1 / (1 + np.exp(np.clip(log_outlier - log_honest, -50, 50)))


def _log_normal(deviation: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(2 * np.pi * variance) + deviation**2 / variance)


def release(hyper: Hyper, labelers: Labelers, free: np.ndarray) -> Hyper:
    """Empirical Bayes: the hyper-parameters that the labelers themselves show, each with a weak prior of its own."""
    honest = labelers.honest[free]
    weight = honest.sum()
    default = Hyper()
    mu = ((honest * labelers.b[free]).sum() + 2 * default.mu) / (weight + 2)
    scatter = (honest * ((labelers.b[free] - mu) ** 2 + labelers.var_b[free])).sum()
    return Hyper(
        mu=float(max(mu, 0.05)),
        tau2=float(max((scatter + 4 * default.tau2) / (weight + 4), LEAST_TAU2)),
        rho=float(max(((1 - honest).sum() + 1) / (len(honest) + 4), LEAST_RHO)),
        tg2=float((labelers.g2[free].sum() + 4 * default.tg2) / (len(honest) + 4)),
        s2=float((labelers.s2[free].sum() + 4 * default.s2) / (len(honest) + 4)),
    )


def evidence_bound(
    scores: Scores, layout: Layout, utilities: Utilities, labelers: Labelers, hyper: Hyper
) -> float:
    """The evidence lower bound of q(u) q(b, g) q(honest), in nats (Bishop 2006, equation 10.3)."""
    sums = moments(scores, layout, utilities)
    likelihood = -0.5 * (
        sums.count * np.log(2 * np.pi * labelers.s2) + squared_error(sums, labelers) / labelers.s2
    )
    noise_prior = -0.5 * NOISE_PRIOR_WEIGHT * (np.log(labelers.s2) + hyper.s2 / labelers.s2)
    square = np.einsum("pk,pk->p", utilities.mean, utilities.mean)
    spread = layout.breadth / utilities.precision - layout.breadth
    entropy = layout.breadth * np.log(utilities.precision)
    if len(layout.mixed):
        spread[layout.mixed] = np.einsum("qii->q", utilities.covariance) - scores.z.shape[1]
        entropy[layout.mixed] = -np.linalg.slogdet(utilities.covariance)[1]
    divergence_u = 0.5 * (square + spread + entropy)
    h = np.clip(labelers.honest, 1e-12, 1 - 1e-12)
    cross = h * (np.log(hyper.tau2) + (labelers.var_b + (labelers.b - hyper.mu) ** 2) / hyper.tau2)
    cross += (1 - h) * (np.log(OUTLIER_VARIANCE) + labelers.b2 / OUTLIER_VARIANCE)
    cross += np.log(hyper.tg2) + labelers.g2 / hyper.tg2
    determinant = labelers.var_b * labelers.var_g - labelers.cov**2
    divergence_b = 0.5 * (cross - np.log(determinant) - 2)
    divergence_h = h * np.log(h / (1 - hyper.rho)) + (1 - h) * np.log((1 - h) / hyper.rho)
    free = ~scores.anchored
    own = (likelihood + noise_prior - divergence_b - divergence_h)[free].sum()
    return float(own + likelihood[~free].sum() - divergence_u.sum())


def null_bound(layout: Layout) -> float:
    """The bound of a model without any shared order, every labeler having noise alone, to hold `bound` against."""
    free = layout.fixed.count > 0
    zz, count = layout.fixed.zz[free], layout.fixed.count[free]
    default = Hyper().s2
    s2 = (zz + NOISE_PRIOR_WEIGHT * default) / (count + NOISE_PRIOR_WEIGHT)
    likelihood = -0.5 * (count * np.log(2 * np.pi * s2) + zz / s2)
    return float((likelihood - 0.5 * NOISE_PRIOR_WEIGHT * (np.log(s2) + default / s2)).sum())
