"""The comparison: figures by hand, intervals against scipy and by simulation, and honest verdicts."""

import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from alignment.errors import InputError, ModelError
from alignment.evaluation.compare import (
    Comparison,
    ModelCompletions,
    bootstrap_mean,
    compare,
    expected_max,
)
from alignment.records import Completion, Prompt


class Reads:
    """A scorer that reads the score written at the start of a text."""

    name = "reader"
    blind_spots = "It believes what it reads."

    def __call__(self, texts):
        return np.array([float(text.split()[0]) for text in texts])


def model(name, scores, **fields):
    """`scores`: one list per prompt. Texts carry their score."""
    completions = [
        Completion(f"{name}-{p}-{i}", f"p{p}", f"{score} words of {name} {p} {i}", tokens=6)
        for p, row in enumerate(scores)
        for i, score in enumerate(row)
    ]
    return ModelCompletions(name, completions, **fields)


def prompts(count):
    return [Prompt(f"p{i}", f"Prompt {i}", "held-out") for i in range(count)]


def run(before, after, count=None, **options):
    options = {"threshold": 0.5, "resamples": 500, "seed": 0} | options
    count = len({c.prompt_id for c in before.completions}) if count is None else count
    return compare(prompts(count), before, after, Reads(), **options)


def random_scores(count, n, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(0, high, (count, n)).round(3).tolist()


def test_figures_by_hand():
    nll = np.log(2.0) * np.array([6.0, 6, 6, 6])
    tokens = np.array([6.0, 6, 6, 6])
    before = model("base", [[0.9, 0.1], [0.5, 0.3]], negative_log_likelihood=nll, tokens=tokens)
    after = model("new", [[0.1, 0.1], [0.2, 0.6]], negative_log_likelihood=2 * nll, tokens=tokens)
    found = run(before, after)
    b, a = found.before, found.after
    assert (b.toxicity.mean, a.toxicity.mean) == (pytest.approx(0.45), pytest.approx(0.25))
    assert (b.over_threshold, a.over_threshold) == (0.5, 0.25), "a score at the threshold is toxic"
    assert b.expected_max_toxicity == pytest.approx((0.9 + 0.5) / 2)
    assert a.expected_max_toxicity == pytest.approx((0.1 + 0.6) / 2)
    assert (b.toxicity_probability, a.toxicity_probability) == (1.0, 0.5)
    assert (b.perplexity, a.perplexity) == (pytest.approx(2), pytest.approx(4))
    assert found.perplexity_change.mean == pytest.approx(1)
    assert found.difference.mean == pytest.approx(-0.2)
    assert found.reduction.mean == pytest.approx(1 - 0.25 / 0.45)
    assert found.prompts[0].before_mean == pytest.approx(0.5)
    assert found.prompts[1].change == pytest.approx(0.0)
    assert (b.completions, b.mean_length, found.length_unit) == (4, 6, "tokens")


def test_expected_max_is_the_mean_over_all_subsets():
    scores = [0.3, 0.9, 0.1, 0.5, 0.5]
    for k in range(1, 6):
        subsets = [max(chosen) for chosen in combinations(scores, k)]
        assert expected_max(np.array(scores), k) == pytest.approx(np.mean(subsets))


def test_more_completions_of_one_model_do_not_raise_its_expected_maximum():
    """Scores from one source: with 8 against 2 completions the plain maximum would favour the smaller set."""
    found = run(model("few", random_scores(300, 2)), model("many", random_scores(300, 8, seed=1)))
    assert found.completions_per_prompt == 2
    assert found.after.expected_max_toxicity == pytest.approx(2 / 3, abs=0.02)
    assert found.before.expected_max_toxicity == pytest.approx(2 / 3, abs=0.04)


def test_bootstrap_agrees_with_scipy_on_clusters_of_one():
    values = np.random.default_rng(0).exponential(size=200)
    mine = bootstrap_mean(values, np.arange(200), resamples=20_000, seed=1)
    spread = math.sqrt(200 / 199) * stats.t.isf(0.025, 199)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=20_000,
        confidence_level=1 - 2 * stats.norm.sf(spread),
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert mine.mean == pytest.approx(values.mean())
    assert mine.low == pytest.approx(theirs.low, abs=0.01)
    assert mine.high == pytest.approx(theirs.high, abs=0.01)


def test_bootstrap_resamples_prompts_not_completions():
    """Ten equal completions of a prompt are one observation: the interval must not shrink."""
    values = np.random.default_rng(0).uniform(size=20)
    once = bootstrap_mean(values, np.arange(20), seed=3)
    ten = bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(20), 10), seed=3)
    assert (ten.low, ten.high) == (pytest.approx(once.low), pytest.approx(once.high))


@pytest.mark.parametrize("groups", [10, 40])
def test_intervals_cover_the_truth_in_95_of_100(groups):
    rng = np.random.default_rng(groups)
    trials, inside = 600, 0
    for trial in range(trials):
        level = rng.beta(0.6, 1.4, groups)  # skewed, mean 0.3, as toxicity is
        values = np.clip(np.repeat(level, 4) + rng.normal(0, 0.05, 4 * groups), -1, 2)
        found = bootstrap_mean(values, np.repeat(np.arange(groups), 4), 400, trial)
        inside += found.low <= 0.3 <= found.high
    assert 0.92 <= inside / trials <= 0.975


def test_equal_sources_give_no_difference_in_95_of_100():
    verdicts = []
    for trial in range(300):
        base, new = (random_scores(30, 2, seed=2 * trial + side) for side in (0, 1))
        verdicts.append(run(model("base", base), model("new", new), seed=trial).verdict)
    assert 0.92 <= verdicts.count("no clear difference") / 300 <= 0.98


def test_verdicts():
    low, high = random_scores(30, 4, 0.2), random_scores(30, 4, 1.0, seed=1)
    better = run(model("base", high), model("new", low))
    assert better.verdict == "better"
    assert better.reduction.low > 0
    assert "new is less toxic than base" in better.headline
    assert "reader" in better.headline and "believes what it reads" in better.headline
    worse = run(model("base", low), model("new", high))
    assert worse.verdict == "worse"
    assert "new is more toxic" in worse.headline
    few = run(model("base", high[:5]), model("new", low[:5]))
    assert few.verdict == "too few prompts"
    assert "at least 10" in few.headline


def test_identical_completions_are_exactly_equal():
    scores = random_scores(30, 4)
    base = model("base", scores)
    shuffled = ModelCompletions("again", base.completions[::-1])
    found = run(base, shuffled)
    assert found.verdict == "no clear difference"
    assert found.difference.low == pytest.approx(0, abs=1e-12)
    assert found.difference.high == pytest.approx(0, abs=1e-12)
    assert "may well be none" in found.headline


def test_pairing_narrows_the_interval():
    """The same hard and easy prompts for both: the difference is known better than either mean."""
    base = random_scores(40, 1)
    found = run(model("base", base), model("new", [[max(0, s[0] - 0.05)] for s in base]))
    width = found.difference.high - found.difference.low
    assert width < 0.1 * (found.before.toxicity.high - found.before.toxicity.low)
    assert found.verdict == "better"


def test_worst_regressions_come_first():
    found = run(
        model("base", [[0.1], [0.9], [0.5]]), model("new", [[0.2], [0.1], [0.9]]), resamples=100
    )
    assert [row.prompt_id for row in found.worst_first()] == ["p2", "p0", "p1"]
    assert [row.direction for row in found.worst_first()] == ["worse", "worse", "better"]
    assert [row.prompt_id for row in found.prompts] == ["p0", "p1", "p2"]


def test_nothing_toxic_before_has_no_reduction():
    found = run(model("base", [[0.0]] * 12), model("new", [[0.3]] * 12))
    assert found.reduction is None
    assert found.verdict == "worse"
    json.dumps(found.to_json(), allow_nan=False)


def test_json_round_trip_is_exact_and_finite():
    nll, tokens = np.full(48, 12.0), np.full(48, 6.0)
    given = dict(negative_log_likelihood=nll, tokens=tokens)
    found = run(
        model("base", random_scores(12, 4), **given), model("new", random_scores(12, 4, 0.1))
    )
    assert found.before.perplexity and found.after.perplexity is None
    assert found.perplexity_change is None
    row = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert row == found.to_json()
    assert Comparison.from_json(row) == found
    assert (row["verdict"], row["headline"]) == (found.verdict, found.headline)
    for broken in ({}, [], None, row | {"before": {}}, row | {"prompts": 3}):
        with pytest.raises(InputError, match="not a comparison"):
            Comparison.from_json(broken)


def test_the_seed_decides_everything():
    base, new = model("base", random_scores(20, 2)), model("new", random_scores(20, 2, seed=1))
    assert run(base, new, seed=4) == run(base, new, seed=4)
    assert run(base, new, seed=4).difference != run(base, new, seed=5).difference


def test_concerns_name_the_price():
    tokens = np.full(24, 6.0)
    base = model("base", random_scores(12, 2), negative_log_likelihood=tokens * 2.0, tokens=tokens)
    mute = [
        replace(c, text="0.0 sorry", finished=False, tokens=2)
        for c in model("new", random_scores(12, 2)).completions
    ]
    new = ModelCompletions("new", mute, tokens * 2.2, tokens)
    found = " ".join(run(base, new).concerns)
    for word in ("Fluency", "Diversity", "Length", "Endings"):
        assert word in found
    assert run(base, base).concerns == ()


def test_bad_input():
    base = model("base", random_scores(3, 2))
    with pytest.raises(InputError, match=r"'p2'.*no completions from new"):
        run(base, model("new", random_scores(2, 2)))
    with pytest.raises(InputError, match="'p2', which is not among the prompts"):
        run(base, base, count=2)
    with pytest.raises(InputError, match="at least 2 prompts"):
        run(model("base", [[0.1]]), model("new", [[0.2]]))
    with pytest.raises(InputError, match="at least 2 prompts"):
        run(model("base", []), model("new", []), count=4)
    with pytest.raises(InputError, match="threshold"):
        run(base, base, threshold=1.5)
    with pytest.raises(InputError, match="resample"):
        run(base, base, resamples=0)
    with pytest.raises(InputError, match="same prompt_id"):
        compare([*prompts(3), Prompt("p1", "again")], base, base, Reads())
    with pytest.raises(InputError, match="log-likelihoods for 2"):
        short = np.ones(2)
        run(replace(base, negative_log_likelihood=short, tokens=short), base)


@pytest.mark.parametrize("returned", [[0.5], [2.0] * 6, [math.nan] * 6, [-0.1] * 6])
def test_scorers_that_return_no_probabilities_are_refused(returned):
    class Broken(Reads):
        def __call__(self, texts):
            return np.array(returned)

    base = model("base", random_scores(3, 2))
    with pytest.raises(ModelError, match="between 0 and 1"):
        compare(prompts(3), base, base, Broken())


def test_prompts_that_neither_model_answered_are_left_out():
    found = run(model("base", random_scores(3, 2)), model("new", random_scores(3, 2)), count=7)
    assert len(found.prompts) == 3
