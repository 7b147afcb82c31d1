"""A whole fit of the factor model against slower programs that share none of its steps."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from alignment.feedback import factor_fit as ff
from alignment.feedback import factor_model as fm
from tests.test_factor_model import truth_scores

PAIRS = np.array(list(itertools.combinations(range(4), 2)))


def confidence(fit):
    return ff.order_confidence(*ff.pair_differences(fit, PAIRS[:, 0], PAIRS[:, 1]))


@pytest.fixture(scope="module")
def small():
    """60 prompts, 3 of 6 labelers each, one of them reversed, one random, one pulled by the place."""
    u, _, scores = truth_scores(11, prompts=60)
    return u, scores, ff.fit_factor_model(scores)


def gibbs(scores, hyper, floor, seed, sweeps=1500, burn=300):
    """Posterior share of draws in which each pair is in order, and the mean b, by Gibbs sampling of the model itself:
    u, (b, g), who is honest, and s2, each from its full conditional in loops over prompts and labelers.

    The program gives s2 a point estimate, its penalised mode; here it is drawn from the inverse gamma of the same
    prior, bounded below by the floor.
    """
    rng = np.random.default_rng(seed)
    labelers, width = scores.labelers, scores.z.shape[1]
    prompts = int(scores.prompt.max()) + 1
    b, g, s2 = np.full(labelers, hyper.mu), np.zeros(labelers), np.full(labelers, hyper.s2)
    centre = np.eye(width) - 1 / width
    order, total_b = np.zeros((prompts, len(PAIRS))), np.zeros(labelers)
    for sweep in range(sweeps):
        u = np.zeros((prompts, width))
        for p in range(prompts):
            rows = np.flatnonzero(scores.prompt == p)
            who = scores.labeler[rows]
            strength = (b[who] ** 2 / s2[who]).sum()
            residual = scores.z[rows] - g[who, None] * scores.x[rows]
            covariance = np.linalg.inv(np.eye(width) + strength * centre)
            mean = covariance @ ((b[who] / s2[who]) @ residual)
            u[p] = rng.multivariate_normal(mean, covariance, method="cholesky")
        for n in range(labelers):
            rows = np.flatnonzero(scores.labeler == n)
            m = u[scores.prompt[rows]] @ centre
            design = np.stack([m.ravel(), scores.x[rows].ravel()], axis=1)
            y = scores.z[rows].ravel()
            log_odds = (
                np.log((1 - hyper.rho) / hyper.rho)
                - 0.5 * (np.log(hyper.tau2) + (b[n] - hyper.mu) ** 2 / hyper.tau2)
                + 0.5 * (np.log(fm.OUTLIER_VARIANCE) + b[n] ** 2 / fm.OUTLIER_VARIANCE)
            )
            honest = rng.random() < 1 / (1 + np.exp(-log_odds))
            variance = hyper.tau2 if honest else fm.OUTLIER_VARIANCE
            prior = np.diag([1 / variance, 1 / hyper.tg2])
            pull = np.array([hyper.mu / variance if honest else 0, 0])
            covariance = np.linalg.inv(prior + design.T @ design / s2[n])
            mean = covariance @ (pull + design.T @ y / s2[n])
            b[n], g[n] = rng.multivariate_normal(mean, covariance)
            squares = ((y - design @ [b[n], g[n]]) ** 2).sum() + fm.NOISE_PRIOR_WEIGHT * hyper.s2
            freedom = len(rows) * (width - 1) + fm.NOISE_PRIOR_WEIGHT
            s2[n] = max(squares / rng.chisquare(freedom), floor[n])
        if sweep >= burn:
            total_b += b
            order += u[:, PAIRS[:, 0]] > u[:, PAIRS[:, 1]]
    kept = sweeps - burn
    return order / kept, total_b / kept


def test_a_fit_agrees_with_gibbs_sampling_of_the_same_model(small):
    _, scores, fit = small
    # The sampler knows nothing of the loss that labelers of a prompt share, which is added after the fit.
    bare = replace(fit, layout=replace(fit.layout, shared_loss=0 * fit.layout.shared_loss))
    ours = confidence(bare)
    theirs, b = gibbs(scores, fit.hyper, fit.layout.floor, seed=1)
    assert fit.labelers.b == pytest.approx(b, abs=0.08)
    assert np.abs(ours - theirs).mean() < 0.03 and np.abs(ours - theirs).max() < 0.15
    sure = np.abs(theirs - 0.5) > 0.1
    assert sure.mean() > 0.7 and ((ours > 0.5) == (theirs > 0.5))[sure].all()


def test_em_reaches_the_maximum_that_a_general_optimiser_finds(small):
    """At fixed hyper-parameters, BFGS on the evidence bound itself, from elsewhere, ends where EM does."""
    _, scores, fit = small
    layout, hyper = fit.layout, fit.hyper
    em = ff.iterate(scores, layout, fit.labelers, hyper, released=False)
    size = scores.labelers

    def labelers_of(free):
        b, g, log_b, log_g, turn, log_s2 = free.reshape(6, size)
        var_b, var_g = np.exp(log_b), np.exp(log_g)
        labelers = fm.Labelers(
            b,
            g,
            var_b,
            var_g,
            np.tanh(turn) * np.sqrt(var_b * var_g),
            np.maximum(np.exp(log_s2), layout.floor),
            em.labelers.honest,
        )
        return labelers

    def minus_bound(free):
        labelers = labelers_of(free)
        utilities = fm.infer_utilities(scores, layout, labelers)
        return -fm.evidence_bound(scores, layout, utilities, labelers, hyper)

    rng = np.random.default_rng(0)
    start = np.concatenate(
        [
            0.7 * em.labelers.b + rng.normal(0, 0.1, size),
            rng.normal(0, 0.1, size),
            np.full(size, np.log(0.02)),
            np.full(size, np.log(0.02)),
            np.zeros(size),
            np.log(np.full(size, 0.6)),
        ]
    )
    found = minimize(minus_bound, start, method="L-BFGS-B", options={"maxfun": 20_000})
    direct = labelers_of(found.x)
    assert -found.fun == pytest.approx(em.bound, abs=0.3)
    assert em.labelers.b == pytest.approx(direct.b, abs=0.02)
    assert em.labelers.g == pytest.approx(direct.g, abs=0.02)
    utilities = fm.infer_utilities(scores, layout, direct)
    other = replace(em, labelers=direct, utilities=utilities)
    assert confidence(em) == pytest.approx(confidence(other), abs=0.01)
