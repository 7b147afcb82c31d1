"""Agreement figures against hand-computed values, scipy and the krippendorff package."""

import itertools

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignment.feedback import agreement
from alignment.feedback.pair_votes import votes_of


def starts_of(*sizes):
    return np.cumsum([0, *sizes])[:-1]


def random_ranks(rng, rows, width, unranked=0.0):
    ranks = rng.integers(1, width + 1, (rows, width))
    drop = rng.random((rows, width)) < unranked
    drop[np.arange(rows), rng.integers(0, width, rows)] = False
    return np.where(drop, 0, ranks).astype(np.int8)


def test_w_by_hand():
    """Three labelers, four completions; rank sums 4, 6, 9, 11 around 7.5 give S = 29 and W = 12 29 / (9 60)."""
    ranks = np.array([[1, 2, 3, 4], [2, 1, 3, 4], [1, 3, 3 - 1 + 1, 4]], np.int8)
    ranks[2] = [1, 3, 4, 2]
    sums = ranks.sum(axis=0)
    s = ((sums - 7.5) ** 2).sum()
    assert agreement.kendall_w(ranks, starts_of(3))[0] == pytest.approx(12 * s / (9 * 60))


@pytest.mark.parametrize("width", [2, 3, 5, 9])
def test_w_with_ties_equals_the_mean_spearman_form(width):
    """W = (1 + (m - 1) mean rho) / m holds for rankings without ties; with ties it is Friedman's chi2 / m (n - 1)."""
    rng = np.random.default_rng(width)
    for _ in range(20):
        m = int(rng.integers(2, 6))
        plain = np.argsort(rng.random((m, width)), axis=1).astype(np.int8) + 1
        rho = [stats.spearmanr(a, b).statistic for a, b in itertools.combinations(plain, 2)]
        w = agreement.kendall_w(plain, starts_of(m))[0]
        assert w == pytest.approx((1 + (m - 1) * np.mean(rho)) / m)
        if width > 2 and m > 2:
            tied = random_ranks(rng, m, width)
            if (tied == tied[:, :1]).all():
                continue
            chi2 = stats.friedmanchisquare(*(-tied.T.astype(float))).statistic
            assert agreement.kendall_w(tied, starts_of(m))[0] == pytest.approx(
                chi2 / (m * (width - 1))
            )


def test_w_is_undefined_for_one_labeler_for_different_completions_and_for_all_ties():
    assert np.isnan(agreement.kendall_w(np.array([[1, 2]]), starts_of(1))).all()
    assert np.isnan(agreement.kendall_w(np.array([[1, 2, 0], [0, 1, 2]]), starts_of(2))).all()
    assert np.isnan(agreement.kendall_w(np.array([[1, 1], [1, 1]]), starts_of(2))).all()


def test_w_of_random_rankings_averages_one_over_m():
    rng = np.random.default_rng(0)
    for m in (2, 3, 6):
        ranks = np.argsort(rng.random((4000 * m, 4)), axis=1) + 1
        assert agreement.kendall_w(ranks, starts_of(*[m] * 4000)).mean() == pytest.approx(
            1 / m, abs=0.01
        )


@pytest.mark.parametrize("unranked", [0.0, 0.3])
def test_tau_b_equals_scipy(unranked):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 5, 60)
    ranks = random_ranks(rng, int(sizes.sum()), 5, unranked)
    starts = starts_of(*sizes)
    measured = agreement.mean_tau_b(votes_of(ranks, starts), starts)
    for value, rows in zip(measured, np.split(ranks, starts[1:]), strict=True):
        taus = []
        for a, b in itertools.combinations(rows, 2):
            both = (a > 0) & (b > 0)
            tau = stats.kendalltau(a[both], b[both]).statistic if both.sum() > 1 else np.nan
            taus.append(tau)
        taus = [tau for tau in taus if np.isfinite(tau)]
        assert value == pytest.approx(np.mean(taus)) if taus else np.isnan(value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 30), st.sampled_from([0.0, 0.2, 0.6])
)
def test_alpha_equals_the_krippendorff_package(seed, width, prompts, unranked):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, prompts)
    ranks = random_ranks(rng, int(sizes.sum()), width, unranked)
    counts = agreement.value_counts(ranks, starts_of(*sizes))
    ours = agreement.ordinal_alpha(agreement.coincidences(counts, 1, width))[0]
    reported, _ = agreement.krippendorff_alpha(counts, width, seed=0)
    data = np.full((3, prompts * width), np.nan)
    for p, rows in enumerate(np.split(ranks, starts_of(*sizes)[1:])):
        for labeler, row in enumerate(rows):
            data[labeler, p * width : (p + 1) * width] = np.where(row > 0, row, np.nan)
    pairable = data[:, np.isfinite(data).sum(axis=0) > 1]
    values = np.unique(pairable[np.isfinite(pairable)])
    if len(values) < 2:
        assert reported is None and np.isnan(ours)
        return
    expected = krippendorff.alpha(
        data, level_of_measurement="ordinal", value_domain=list(range(1, counts.shape[1] + 1))
    )
    assert ours == pytest.approx(expected, abs=1e-10)
    assert reported == pytest.approx(expected, abs=1e-10)


def test_alpha_of_large_data_is_the_same_by_the_linear_memory_formula(monkeypatch):
    ranks = random_ranks(np.random.default_rng(3), 90, 4)
    counts = agreement.value_counts(ranks, starts_of(*[3] * 30))
    by_package, interval = agreement.krippendorff_alpha(counts, 4, seed=0)
    monkeypatch.setattr(agreement, "MOST_UNITS", 10)
    assert agreement.krippendorff_alpha(counts, 4, seed=0) == (
        pytest.approx(by_package, abs=1e-12),
        interval,
    )


def test_the_interval_of_alpha_covers_it_and_shrinks_with_the_data():
    rng = np.random.default_rng(5)
    widths = []
    for prompts in (20, 80, 2000):
        u = rng.normal(size=(prompts, 1, 4)) + rng.normal(size=(prompts, 3, 4))
        ranks = np.argsort(np.argsort(-u, axis=2), axis=2).reshape(-1, 4) + 1
        counts = agreement.value_counts(ranks, starts_of(*[3] * prompts))
        alpha, (low, high) = agreement.krippendorff_alpha(counts, 4, seed=0)
        assert low < alpha < high
        assert agreement.krippendorff_alpha(counts, 4, seed=0)[1] == (low, high)
        widths.append(high - low)
    assert widths[0] > 1.4 * widths[1] > 4 * widths[2]
    one_prompt = agreement.value_counts(np.array([[1, 2], [1, 2]]), starts_of(2))
    assert agreement.krippendorff_alpha(one_prompt, 2, 0) == (pytest.approx(1), None)
    one_labeler = agreement.value_counts(np.array([[1, 2], [1, 2]]), starts_of(1, 1))
    assert agreement.krippendorff_alpha(one_labeler, 2, 0) == (None, None)


def test_pairwise_agreement_and_disagreement_shares_by_hand():
    """Prompt 1: votes 2 to 1 on its only pair; prompt 2: unanimous. 1 + 3 agreeing pairs of votes of 6."""
    ranks = np.array([[1, 2], [1, 2], [2, 1], [1, 2], [1, 2], [1, 2]])
    votes = votes_of(ranks, starts_of(3, 3))
    assert agreement.pairwise_agreement(votes) == pytest.approx(4 / 6)
    assert agreement.disagreement_shares(votes).tolist() == [1, 0]
    alone = votes_of(ranks[:1], starts_of(1))
    assert agreement.pairwise_agreement(alone) is None
    assert agreement.disagreement_shares(alone).tolist() == [0]


def test_components_of_labelers():
    prompt = np.array([0, 0, 1, 1, 2])
    assert agreement.labeler_components(prompt, np.array([0, 1, 1, 2, 3])) == 2
    assert agreement.labeler_components(prompt, np.array([0, 1, 1, 2, 2])) == 1
