"""Simulated labelers."""

from collections import Counter

import numpy as np
import pytest

from alignment.config import SimulateConfig
from alignment.errors import InputError
from alignment.feedback.simulation import assign, simulate_rankings, standard_noise


def task(prompts=60, k=4, seed=0):
    rng = np.random.default_rng(seed)
    ids = {f"p{p}": [f"p{p}c{c}" for c in range(k)] for p in range(prompts)}
    return ids, {name: float(rng.normal()) for names in ids.values() for name in names}


def config(**values):
    return SimulateConfig.model_validate(values)


def test_every_prompt_gets_the_overlap_from_different_labelers_and_work_is_shared_evenly():
    ids, utilities = task(prompts=101)
    pool, rankings = simulate_rankings(ids, utilities, config(rankings_per_prompt=3, seed=4))
    by_prompt = Counter(r.prompt_id for r in rankings)
    assert set(by_prompt.values()) == {3} and len(by_prompt) == 101
    assert len({(r.prompt_id, r.labeler_id) for r in rankings}) == len(rankings)
    loads = Counter(r.labeler_id for r in rankings)
    assert len(loads) == len(pool) == 12
    assert max(loads.values()) - min(loads.values()) <= 1
    assert pool[0].labeler_id == "sim-careful-1" and pool[-1].labeler_id == "sim-position-biased-1"


def test_rankings_are_complete_marked_simulated_and_reproducible():
    ids, utilities = task()
    _, rankings = simulate_rankings(ids, utilities, config(seed=1))
    _, again = simulate_rankings(ids, utilities, config(seed=1))
    assert rankings == again
    for r in rankings:
        assert r.simulated and r.seconds is not None and r.seconds > 0
        assert r.positions is not None
        assert set(r.ranks) == set(ids[r.prompt_id]) == set(r.positions)
        assert sorted(r.positions.values()) == [0, 1, 2, 3]


def test_positions_are_counterbalanced_over_the_labelers_of_a_prompt():
    ids, utilities = task(k=4)
    _, rankings = simulate_rankings(ids, utilities, config(rankings_per_prompt=4))
    for prompt_id, names in ids.items():
        shown = [r.positions for r in rankings if r.prompt_id == prompt_id]
        for name in names:
            assert sorted(places[name] for places in shown) == [0, 1, 2, 3]


def concordance(rankings, utilities, kind):
    right = []
    for r in rankings:
        if kind in r.labeler_id:
            names = list(r.ranks)
            for i, a in enumerate(names):
                for b in names[i + 1 :]:
                    right.append((utilities[a] - utilities[b]) * (r.ranks[b] - r.ranks[a]) > 0)
    return np.mean(right)


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
def test_kinds_behave_as_named(noise):
    ids, utilities = task(prompts=400)
    _, rankings = simulate_rankings(ids, utilities, config(), noise=noise)
    assert concordance(rankings, utilities, "careful") > 0.82
    assert 0.65 < concordance(rankings, utilities, "noisy") < 0.78
    assert abs(concordance(rankings, utilities, "random") - 0.5) < 0.06
    assert concordance(rankings, utilities, "reversed") < 0.18
    biased = [r for r in rankings if "position" in r.labeler_id]
    first = [
        min(r.ranks, key=r.ranks.__getitem__) == min(r.positions, key=r.positions.__getitem__)
        for r in biased
    ]
    assert np.mean(first) > 0.6


def test_careful_labelers_tie_equal_utilities_and_others_do_not():
    ids, _ = task(prompts=30)
    utilities = {name: float(k < 2) for names in ids.values() for k, name in enumerate(names)}
    _, rankings = simulate_rankings(ids, utilities, config())
    for r in rankings:
        a, b, c, d = (r.ranks[name] for name in ids[r.prompt_id])
        if "careful" in r.labeler_id:
            assert a == b and c == d and a != c
        else:
            assert len({a, b, c, d}) == 4


@pytest.mark.parametrize("family", ["gaussian", "gumbel"])
def test_noise_has_mean_zero_and_variance_one(family):
    e = standard_noise(family, 200_000, np.random.default_rng(0))
    assert abs(e.mean()) < 0.01 and abs(e.var() - 1) < 0.02


def test_scale_of_the_utilities_does_not_matter():
    ids, utilities = task()
    scaled = {name: 1000 * u for name, u in utilities.items()}
    ranks = [r.ranks for r in simulate_rankings(ids, utilities, config())[1]]
    assert ranks == [r.ranks for r in simulate_rankings(ids, scaled, config())[1]]


def test_assign_uses_everybody_when_the_overlap_is_the_pool():
    groups = assign(5, 3, 3, np.random.default_rng(0))
    assert (np.sort(groups, axis=1) == [0, 1, 2]).all()


def test_bad_input_is_refused_with_a_reason():
    ids, utilities = task(prompts=2)
    with pytest.raises(InputError, match="no prompts"):
        simulate_rankings({}, {}, config())
    with pytest.raises(InputError, match="at least two different completions"):
        simulate_rankings({"p": ["c", "c"]}, {"c": 1.0}, config())
    with pytest.raises(InputError, match="has no utility"):
        simulate_rankings(ids, {}, config())
    with pytest.raises(InputError, match="finite"):
        simulate_rankings(ids, dict.fromkeys(utilities, float("nan")), config())
