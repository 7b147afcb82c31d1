"""The factor model against a slow, independent implementation, and what it must recover."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from alignment.feedback import factor_fit as ff
from alignment.feedback import factor_model as fm
from alignment.feedback.ranking_table import (
    centred_places,
    expected_order_statistic,
    mean_square,
    normal_scores,
)


def make_scores(ranks, prompt, labeler, places=None, anchored=()):
    ranks = np.asarray(ranks, np.int8)
    places = np.full(ranks.shape, -1) if places is None else np.asarray(places)
    labelers = max(labeler) + 1
    return fm.Scores(
        np.asarray(prompt),
        np.asarray(labeler),
        normal_scores(ranks),
        centred_places(places, ranks),
        ranks > 0,
        np.ones(len(ranks)),
        labelers,
        np.isin(np.arange(labelers), anchored),
    )


def random_scores(seed, prompts=6, labelers=4, width=4, unranked=0.0):
    """Random rankings, all labelers on every prompt."""
    rng = np.random.default_rng(seed)
    rows = prompts * labelers
    ranks = np.argsort(rng.random((rows, width)), axis=1) + 1
    drop = rng.random((rows, width)) < unranked
    drop[:, :2] = False
    places = np.argsort(rng.random((rows, width)), axis=1)
    return make_scores(
        np.where(drop, 0, ranks),
        np.repeat(np.arange(prompts), labelers),
        np.tile(np.arange(labelers), prompts),
        places,
    )


def random_labelers(seed, size):
    rng = np.random.default_rng(seed)
    return fm.Labelers(
        b=rng.normal(0.5, 0.5, size),
        g=rng.normal(0, 0.3, size),
        var_b=rng.uniform(0.001, 0.05, size),
        var_g=rng.uniform(0.001, 0.05, size),
        cov=rng.uniform(-0.0005, 0.0005, size),
        s2=rng.uniform(0.3, 1.2, size),
        honest=rng.uniform(0.2, 0.9, size),
    )


@pytest.mark.parametrize("unranked", [0.0, 0.4])
def test_the_posterior_of_utilities_is_that_of_the_joint_gaussian(unranked):
    """With var_b = 0 the E-step is ordinary conditioning: stack a prompt's observations and use the normal equations of
    the joint covariance, by pseudo-inverse because centred scores are degenerate."""
    scores = random_scores(0, unranked=unranked)
    zero = np.zeros(scores.labelers)
    labelers = replace(random_labelers(1, scores.labelers), var_b=zero, var_g=zero, cov=zero)
    layout = fm.layout_of(scores)
    utilities = fm.infer_utilities(scores, layout, labelers)
    fit = ff.FactorFit(labelers, utilities, fm.Hyper(), layout, 0.0, 1, True)
    pairs = np.array(list(itertools.combinations(range(4), 2)))
    mean, variance = ff.pair_differences(fit, pairs[:, 0], pairs[:, 1])
    for p in range(6):
        rows = np.flatnonzero(scores.prompt == p)
        design, observed, noise = [], [], []
        for r in rows:
            inside = np.diag(scores.ranked[r].astype(float))
            centring = (
                inside - np.outer(scores.ranked[r], scores.ranked[r]) / scores.ranked[r].sum()
            )
            labeler = scores.labeler[r]
            design.append(labelers.b[labeler] * centring)
            observed.append(scores.z[r] - labelers.g[labeler] * scores.x[r])
            noise.append(labelers.s2[labeler] * centring)
        a, y = np.vstack(design), np.concatenate(observed)
        covariance = a @ a.T
        for block, part in enumerate(noise):
            covariance[4 * block : 4 * block + 4, 4 * block : 4 * block + 4] += part
        gain = a.T @ np.linalg.pinv(covariance, rcond=1e-10)
        u, v = gain @ y, np.eye(4) - gain @ a
        for n, (i, j) in enumerate(pairs):
            assert mean[p, n] == pytest.approx(u[i] - u[j], abs=1e-9)
            shared = 2 * fm.SHARED_LOSS * (1 - mean_square(4))
            assert variance[p, n] - shared == pytest.approx(
                v[i, i] + v[j, j] - 2 * v[i, j], abs=1e-9
            )


def slow_step(scores, labelers, hyper, floor):
    """One EM step in loops and full matrices, straight from the equations of the module's docstring."""
    width = scores.z.shape[1]
    centring = [np.diag(k.astype(float)) - np.outer(k, k) / k.sum() for k in scores.ranked]
    prompts = range(scores.prompt.max() + 1)
    posterior = {}
    for p in prompts:
        precision, pull = np.eye(width), np.zeros(width)
        for r in np.flatnonzero(scores.prompt == p):
            label = scores.labeler[r]
            b, g, s2 = labelers.b[label], labelers.g[label], labelers.s2[label]
            precision += (b**2 + labelers.var_b[label]) / s2 * centring[r]
            pull += (b * scores.z[r] - (b * g + labelers.cov[label]) * scores.x[r]) / s2
        covariance = np.linalg.inv(precision)
        posterior[p] = covariance @ pull, covariance
    result = []
    for label in range(scores.labelers):
        data = np.zeros((2, 2))
        pull = np.zeros(2)
        zz, count = 0.0, 0
        for r in np.flatnonzero(scores.labeler == label):
            mean, covariance = posterior[scores.prompt[r]]
            m, z, x = centring[r] @ mean, scores.z[r], scores.x[r]
            data += [
                [m @ m + np.trace(centring[r] @ covariance @ centring[r]), m @ x],
                [m @ x, x @ x],
            ]
            pull += [m @ z, x @ z]
            zz += z @ z
            count += scores.ranked[r].sum() - 1
        s2 = labelers.s2[label]
        estimate, error = (pull[0] - labelers.g[label] * data[0, 1]) / data[0, 0], s2 / data[0, 0]
        densities = [
            share * np.exp(-((estimate - centre) ** 2) / (2 * (v + error))) / np.sqrt(v + error)
            for share, centre, v in (
                (1 - hyper.rho, hyper.mu, hyper.tau2),
                (hyper.rho, 0.0, fm.OUTLIER_VARIANCE),
            )
        ]
        honest = densities[0] / sum(densities)
        prior = np.diag([honest / hyper.tau2 + (1 - honest) / fm.OUTLIER_VARIANCE, 1 / hyper.tg2])
        covariance = np.linalg.inv(data / s2 + prior)
        mean = covariance @ (pull / s2 + [honest * hyper.mu / hyper.tau2, 0])
        second = covariance + np.outer(mean, mean)
        squared = zz - 2 * mean @ pull + np.sum(second * data)
        noise = (squared + fm.NOISE_PRIOR_WEIGHT * hyper.s2) / (count + fm.NOISE_PRIOR_WEIGHT)
        result.append(
            (
                *mean,
                covariance[0, 0],
                covariance[1, 1],
                covariance[0, 1],
                max(noise, floor[label]),
                honest,
            )
        )
    return fm.Labelers(*np.array(result).T)


@pytest.mark.parametrize(("seed", "unranked"), [(2, 0.0), (3, 0.4), (4, 0.2)])
def test_em_steps_equal_the_slow_implementation(seed, unranked):
    scores = random_scores(seed, unranked=unranked)
    layout, hyper = fm.layout_of(scores), fm.Hyper()
    fast = slow = random_labelers(seed, scores.labelers)
    for _ in range(5):
        sums = fm.moments(scores, layout, fm.infer_utilities(scores, layout, fast))
        fast = fm.infer_labelers(sums, fast, hyper, layout.floor, scores.anchored)
        slow = slow_step(scores, slow, hyper, layout.floor)
        for name in fm.Labelers.__slots__:
            assert getattr(fast, name) == pytest.approx(getattr(slow, name), abs=1e-9), name


def truth_scores(seed, prompts=400, width=4, per_prompt=3):
    """Rankings by labelers of known reliability; labeler 5 is pulled by the place."""
    rng = np.random.default_rng(seed)
    noise, slope = np.array([0.3, 0.6, 1.2, 0.3, 1, 0.4]), np.array([1, 1, 1, -1, 0, 1.0])
    pull = np.array([0, 0, 0, 0, 0, 2.0])
    u = rng.standard_normal((prompts, width))
    labeler = np.sort(np.argsort(rng.random((prompts, 6)), axis=1)[:, :per_prompt], axis=1).ravel()
    prompt = np.repeat(np.arange(prompts), per_prompt)
    places = np.argsort(rng.random((len(prompt), width)), axis=1)
    x = centred_places(places, np.ones_like(places))
    y = slope[labeler, None] * u[prompt] + pull[labeler, None] * x
    y += noise[labeler, None] * rng.standard_normal(y.shape)
    ranks = np.argsort(np.argsort(-y, axis=1), axis=1) + 1
    return u, slope / np.sqrt(slope**2 + noise**2), make_scores(ranks, prompt, labeler, places)


def test_reliabilities_and_position_bias_are_recovered():
    _, correlation, scores = truth_scores(0, prompts=1500)
    fit = ff.fit_factor_model(scores)
    assert fit.converged
    assert fit.labelers.b[:5] == pytest.approx(correlation[:5], abs=0.08)
    assert fit.labelers.g[5] > 0.8 and np.abs(fit.labelers.g[:5]).max() < 0.08
    assert fit.labelers.honest[0] > 0.7 > 0.3 > fit.labelers.honest[3]


def test_confidence_is_calibrated_and_beats_chance():
    u, _, scores = truth_scores(1, prompts=3000)
    fit = ff.fit_factor_model(scores)
    first, second = np.triu_indices(4, 1)
    confidence = ff.order_confidence(*ff.pair_differences(fit, first, second))
    truth = u[:, first] > u[:, second]
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        sure = np.maximum(confidence, 1 - confidence)
        within = (sure >= low) & (sure < low + 0.1)
        assert np.mean((confidence > 0.5)[within] == truth[within]) == pytest.approx(
            sure[within].mean(), abs=0.03
        )


def test_plain_em_never_lowers_the_bound(monkeypatch):
    _, _, scores = truth_scores(2, prompts=60)
    monkeypatch.setattr(ff, "extrapolate", lambda first, second, third, floor: third)
    layout, hyper = fm.layout_of(scores), fm.Hyper()
    labelers, bounds = ff.honest_start(scores, hyper), []
    for _ in range(30):
        fit = ff.iterate(scores, layout, labelers, hyper, released=False, most=1)
        labelers = fit.labelers
        bounds.append(fit.bound)
    # The kinds and s2 are updated from the parameters of the step before, so tiny steps down are possible.
    assert np.diff(bounds).min() > -0.01 * (bounds[-1] - bounds[0])
    assert bounds[-1] > bounds[0]


def test_extrapolation_changes_the_way_and_not_the_goal(monkeypatch):
    _, _, scores = truth_scores(3, prompts=300)
    quick = ff.fit_factor_model(scores)
    monkeypatch.setattr(ff, "extrapolate", lambda first, second, third, floor: third)
    plain = ff.fit_factor_model(scores)
    assert quick.labelers.b == pytest.approx(plain.labelers.b, abs=1e-3)
    assert quick.utilities.mean == pytest.approx(plain.utilities.mean, abs=2e-3)
    assert quick.iterations < plain.iterations


def test_a_part_of_the_prompts_finds_the_start_without_changing_the_goal(monkeypatch):
    _, _, scores = truth_scores(4, prompts=1200)
    whole = ff.fit_factor_model(scores)
    monkeypatch.setattr(ff, "START_ROWS", 300)
    monkeypatch.setattr(ff, "START_ROWS_PER_LABELER", 1)
    assert ff.fit_factor_model(scores).labelers.b == pytest.approx(whole.labelers.b, abs=1e-3)


def test_anchored_labelers_stay_where_they_are():
    _, _, scores = truth_scores(5, prompts=100)
    scores = replace(scores, anchored=np.arange(6) == 0)
    fit = ff.fit_factor_model(scores)
    assert fit.labelers.b[0] == 1 and fit.labelers.s2[0] < 0.05


def test_two_labelers_who_contradict_each_other_leave_the_question_open():
    scores = make_scores([[1, 2, 3], [3, 2, 1]] * 20, np.repeat(np.arange(20), 2), [0, 1] * 20)
    fit = ff.fit_factor_model(scores)
    assert fit.utilities.mean == pytest.approx(0, abs=1e-9)
    assert fit.labelers.b[0] == pytest.approx(fit.labelers.b[1])


def test_expected_order_statistics_are_those_of_the_tables():
    """Harter (1961), Biometrika 48:151, table 1."""
    assert expected_order_statistic(2, 1) == pytest.approx(0.56419, abs=1e-5)
    assert expected_order_statistic(4, 1) == pytest.approx(1.02938, abs=1e-5)
    assert expected_order_statistic(4, 2) == pytest.approx(0.29701, abs=1e-5)
    assert expected_order_statistic(9, 1) == pytest.approx(1.48501, abs=1e-5)
    assert expected_order_statistic(5, 3) == 0
    assert expected_order_statistic(5, 4) == -expected_order_statistic(5, 2)


def test_normal_scores_share_ties_leave_out_the_unranked_and_sum_to_zero():
    ranks = np.array([[1, 2, 3, 4], [1, 1, 2, 3], [2, 0, 1, 0], [1, 1, 1, 1]], np.int8)
    z = normal_scores(ranks)
    top, upper = 1.02938 / mean_square(4), 0.29701 / mean_square(4)
    assert z[0] == pytest.approx([top, upper, -upper, -top], abs=1e-4)
    assert z[1] == pytest.approx([(top + upper) / 2] * 2 + [-upper, -top], abs=1e-4)
    half = 0.56419 / mean_square(2)
    assert z[2] == pytest.approx([-half, 0, half, 0], abs=1e-4)
    assert z[3] == pytest.approx(0)
    assert z.sum(axis=1) == pytest.approx(0)


def test_a_labeler_of_correlation_rho_has_slope_rho_whatever_the_number_of_completions():
    rng = np.random.default_rng(6)
    for width in (2, 4, 9):
        u = rng.standard_normal((40_000, width))
        y = 0.6 * u + 0.8 * rng.standard_normal(u.shape)
        z = normal_scores((np.argsort(np.argsort(-y, axis=1), axis=1) + 1).astype(np.int8))
        centred = u - u.mean(axis=1, keepdims=True)
        assert (z * centred).sum() / (centred**2).sum() == pytest.approx(0.6, abs=0.02)


def test_centred_places_put_first_at_plus_one_and_unknown_at_zero():
    places = np.array([[0, 1, 2, 3], [3, 0, 2, 1], [5, 7, 0, 2], [-1, -1, -1, -1]])
    ranks = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 0, 0], [1, 2, 3, 4]])
    x = centred_places(places, ranks)
    assert x[0] == pytest.approx([1, 1 / 3, -1 / 3, -1])
    assert x[1] == pytest.approx([-1, 1, -1 / 3, 1 / 3])
    assert x[2] == pytest.approx([1, -1, 0, 0])
    assert x[3] == pytest.approx(0)
