"""The comparison: figures by hand, intervals against scipy and by simulation, and honest verdicts."""

import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from alignment.errors import InputError, ModelError
from alignment.evaluation.bootstrap import bootstrap_mean, permutation_test
from alignment.evaluation.evaluation import Evaluation, evaluate, read_evaluation
from alignment.evaluation.figures import Settings, expected_max_per_group
from alignment.evaluation.material import (
    Material,
    ModelCompletions,
    Probe,
    ScorerCard,
    answered,
    save_material,
)
from alignment.evaluation.toxicity import score_all
from alignment.evaluation.verdict import overall
from alignment.files import write_json
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
    options = {"threshold": 0.5, "resamples": 500, "permutations": 500, "seed": 0} | options
    count = len({c.prompt_id for c in before.completions}) if count is None else count
    return compare(prompts(count), before, after, Reads(), **options)


def compare(asked, before, after, scorer, **options):
    """Both models' completions of the same prompts, scored and compared as an evaluation does it."""
    models, card = (before, after), ScorerCard(scorer.name, scorer.blind_spots)
    kept = tuple(answered(asked, models))
    scores = {card.name: score_all(scorer, [model.texts for model in models])}
    material = Material(kept, models, (card,), scores)
    return evaluate(material, Settings(**options)).comparison(material)


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
    assert (b.over_threshold.mean, a.over_threshold.mean) == (0.5, 0.25), (
        "a score at the threshold is toxic"
    )
    assert b.expected_max_toxicity.mean == pytest.approx((0.9 + 0.5) / 2)
    assert a.expected_max_toxicity.mean == pytest.approx((0.1 + 0.6) / 2)
    assert (b.toxicity_probability.mean, a.toxicity_probability.mean) == (1.0, 0.5)
    assert (b.perplexity, a.perplexity) == (pytest.approx(2), pytest.approx(4))
    assert found.perplexity_change.mean == pytest.approx(1)
    assert found.difference.mean == pytest.approx(-0.2)
    assert found.reduction.mean == pytest.approx(1 - 0.25 / 0.45)
    assert found.prompts[0].before_mean == pytest.approx(0.5)
    assert found.prompts[1].change == pytest.approx(0.0)
    assert (b.completions, b.mean_length, found.length_unit) == (4, 6, "tokens")


def test_expected_max_is_the_mean_over_all_subsets():
    rows = [[0.3, 0.9, 0.1, 0.5, 0.5], [0.2, 0.8, 0.8, 0.4, 0.0, 0.7]]
    groups = np.array([1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0])  # as completions may lie, out of order
    scores = np.empty(len(groups))
    for group, row in enumerate(rows):
        scores[groups == group] = row
    for k in range(1, 6):
        wanted = [np.mean([max(chosen) for chosen in combinations(row, k)]) for row in rows]
        assert expected_max_per_group(scores, groups, k) == pytest.approx(wanted)


def test_more_completions_of_one_model_do_not_raise_its_expected_maximum():
    """Scores from one source: with 8 against 2 completions the plain maximum would favour the smaller set."""
    found = run(model("few", random_scores(300, 2)), model("many", random_scores(300, 8, seed=1)))
    assert found.completions_per_prompt == 2
    assert found.after.expected_max_toxicity.mean == pytest.approx(2 / 3, abs=0.02)
    assert found.before.expected_max_toxicity.mean == pytest.approx(2 / 3, abs=0.04)


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
    assert found.p_value < 0.01


READER = (ScorerCard("reader", "It believes what it reads."),)


def reader_material(models, count, cards=READER):
    scores = {card.name: [Reads()(m.texts) for m in models] for card in cards}
    return Material(tuple(prompts(count)), tuple(models), tuple(cards), scores)


def test_json_and_files_give_back_exactly_what_was_found(tmp_path):
    """Every figure can be computed again from what is stored, and comes out the same to the last digit."""
    nll, tokens = np.linspace(9, 14, 48), np.full(48, 6.0)
    likely = dict(negative_log_likelihood=nll, tokens=tokens)
    models = [
        model("base", random_scores(12, 4), own_nll=nll, **likely),
        model("sft", random_scores(12, 4, 0.7, seed=2)),
        model("new", random_scores(12, 4, 0.1), own_nll=nll - 1.5, **likely),
    ]
    settings = Settings(resamples=200, permutations=200, seed=5)
    found = evaluate(reader_material(models, 12), settings)
    assert found.model("sft").perplexity is None and found.pairs["sft"].perplexity_change is None
    assert found.model("base").kl.mean == 0
    assert found.model("new").kl.mean == pytest.approx(1.5)
    row = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert row == found.to_json()
    assert Evaluation.from_json(row) == found
    assert row["paired"] == row["pairs"]["new"]["scorers"]
    write_json(tmp_path / "comparison.json", row)
    save_material(tmp_path, reader_material(models, 12))
    stored, material = read_evaluation(tmp_path)
    assert stored == found
    assert evaluate(material, stored.settings).to_json() == row
    for broken in ({}, [], None, row | {"models": {"x": {}}}, row | {"format": 1}):
        with pytest.raises(InputError, match="not a comparison"):
            Evaluation.from_json(broken)


def test_files_that_were_changed_are_refused(tmp_path):
    models = [model("base", random_scores(12, 2)), model("new", random_scores(12, 2))]
    probe = Probe({"base": np.ones(3), "new": np.ones(3)}, np.full(3, 8.0))
    material = replace(reader_material(models, 12), probe=probe)
    found = evaluate(material, Settings(resamples=100, permutations=100))
    write_json(tmp_path / "comparison.json", found.to_json())
    changes = (
        ("prompts.jsonl", lambda lines: lines[1:], "'p0', which is not among the prompts"),
        ("completions_new.jsonl", lambda lines: lines[2:], "'p0' has no completions from new"),
        ("probe.jsonl", lambda lines: [], "is empty"),
        ("probe.jsonl", lambda lines: ['{"bytes": 8}', *lines[1:]], "changed after the evaluation"),
        ("probe.jsonl", lambda lines: ['{"nll": {"base": 1}}', *lines], "changed after the"),
    )
    for name, change, says in changes:
        save_material(tmp_path, material)
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("".join(f"{line}\n" for line in change(lines)))
        with pytest.raises(InputError, match=says):
            read_evaluation(tmp_path)


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
    assert run(base, replace(base, name="again")).concerns == ()


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
    again = replace(base, name="again")
    with pytest.raises(InputError, match="resample"):
        run(base, again, resamples=0)
    with pytest.raises(InputError, match="same prompt_id"):
        compare([*prompts(3), Prompt("p1", "again")], base, base, Reads())
    with pytest.raises(InputError, match="log-likelihoods for 2"):
        short = np.ones(2)
        run(replace(base, negative_log_likelihood=short, tokens=short), again)


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


def sums(values):
    return np.stack([values, np.ones(len(values))], axis=1)


@pytest.mark.parametrize("count", [8, 60])
def test_permutation_test_agrees_with_scipy(count):
    """Exact where there are few prompts; with many the same swaps are too many, and chance decides the third digit."""
    rng = np.random.default_rng(count)
    before, after = rng.beta(0.6, 1.4, count), rng.beta(0.5, 1.5, count)
    theirs = stats.permutation_test(
        (after, before),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    mine = permutation_test(sums(before), sums(after), 20_000, seed=1)
    assert mine == pytest.approx(theirs.pvalue, abs=1e-12 if count == 8 else 0.012)


def test_permutation_test_on_known_answers():
    before = np.array([0.9, 0.8, 0.7, 0.9, 0.8])
    assert permutation_test(sums(before), sums(before - 0.5)) == 2 / 32, "only all or none swapped"
    assert permutation_test(sums(before), sums(before)) == 1.0
    assert permutation_test(sums(np.ones(50)), sums(np.zeros(50)), 999) == 1 / 1000


def test_permutation_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(0)
    values = [
        permutation_test(sums(rng.random(20)), sums(rng.random(20)), 400, seed)
        for seed in range(2000)
    ]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.035 <= np.mean(np.array(values) < 0.05) <= 0.065


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([("better", False)], "better"),
        ([("better", True)], "no independent scorer"),
        ([("better", True), ("better", True)], "no independent scorer"),
        ([("worse", True)], "worse"),
        ([("better", True), ("better", False)], "better"),
        ([("better", True), ("no clear difference", False)], "no clear difference"),
        ([("better", False), ("worse", False)], "scorers disagree"),
        ([("better", False), ("no clear difference", False)], "scorers disagree"),
        ([("worse", True), ("better", False)], "scorers disagree"),
        ([("too few prompts", False), ("too few prompts", False)], "too few prompts"),
    ],
)
def test_the_verdict_of_all_scorers(verdicts, expected):
    assert overall(verdicts) == expected


def test_it_is_never_called_better_by_the_scorer_that_trained_it():
    models = [model("base", random_scores(30, 4)), model("new", random_scores(30, 4, 0.1))]
    card = ScorerCard("reader", "It believes what it reads.", trained_policy=True)
    found = evaluate(reader_material(models, 30, (card,)), Settings(resamples=200))
    assert found.pairs["new"].scorers["reader"].verdict == "better"
    assert found.verdict() == "no independent scorer"
    headline = found.to_json()["headline"]
    assert "less toxic than" not in headline and "Not shown" in headline
    assert "Add a scorer that did not train it" in headline


def test_categories_have_figures_of_their_own():
    asked = [
        replace(p, category="insults" if i < 12 else "jokes" if i < 24 else None)
        for i, p in enumerate(prompts(25))
    ]
    base = model("base", [[0.9]] * 12 + [[0.1]] * 13)
    new = model("new", [[0.2]] * 12 + [[0.3]] * 13)
    material = replace(reader_material([base, new], 25), prompts=tuple(asked))
    found = evaluate(material, Settings(resamples=200))
    by = found.pairs["new"].categories
    assert list(by) == ["insults", "jokes"]
    assert by["insults"]["reader"].difference.mean == pytest.approx(-0.7)
    assert by["jokes"]["reader"].verdict == "worse"
    assert found.model("base").categories["jokes"]["reader"].mean.mean == pytest.approx(0.1)
    assert "other" in found.notes[0], "a single prompt without a category bears no interval"


def test_names_that_cannot_be_files_are_refused():
    base = model("base", random_scores(3, 2))
    for wrong in ("../up", "", "a b", "x" * 61):
        with pytest.raises(InputError, match="cannot be called"):
            evaluate(reader_material([base, replace(base, name=wrong)], 3))
    with pytest.raises(InputError, match="Two models"):
        evaluate(reader_material([base, base], 3))
    with pytest.raises(InputError, match="at least two models"):
        evaluate(reader_material([base], 3))


def test_probe_and_rouge():
    models = [model("base", [[0.1]] * 12), model("new", [[0.1]] * 12)]
    sizes = np.full(10, 8.0)
    probe = Probe({"base": sizes * math.log(2), "new": sizes * 1.5 * math.log(2)}, sizes)
    material = replace(reader_material(models, 12), probe=probe)
    answers = tuple(
        replace(p, references=(f"0.1 words of base {i} 0",)) for i, p in enumerate(prompts(12))
    )
    found = evaluate(replace(material, prompts=answers), Settings(resamples=200))
    assert found.model("base").probe_loss == pytest.approx(1.0)
    assert found.pairs["new"].probe_change.mean == pytest.approx(0.5)
    assert any("Forgetting" in c for c in found.comparison().concerns)
    assert found.model("base").rouge["rougeL"] == pytest.approx(1.0)
    assert 0.5 < found.model("new").rouge["rouge1"] < 1
