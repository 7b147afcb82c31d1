"""Known orders in a consensus: they settle their prompts, whatever the method and the votes say."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import InputError
from alignment.feedback import consensus as module
from alignment.feedback.consensus import METHODS, fit_consensus, update_consensus
from alignment.feedback.settlement import contradictory
from alignment.records import Ranking
from tests.test_consensus import by_names, pool, right_share, simple


def direction(ranks, first, second):
    return np.sign(ranks[second] - ranks[first])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(METHODS[1:]), st.integers(2, 9))
def test_a_known_order_settles_its_prompt_against_any_votes(seed, method, k):
    rng = np.random.default_rng(seed)
    ids, _, _, rankings = pool(prompts=12, k=k, seed=seed % 50)
    names = ids["p004"]
    chosen = [str(n) for n in rng.permutation(names)[: rng.integers(2, k + 1)]]
    known = {name: int(rng.integers(1, 4)) for name in chosen}
    source = ("gold", "adjudicated")[seed % 2]
    consensus = fit_consensus(rankings, ids, method=method, **{source: {"p004": known}})
    prompt = next(p for p in consensus.prompts if p.prompt_id == "p004")
    assert prompt.settled and consensus.summary.settled_prompts == 1
    for a, b in combinations(chosen, 2):
        assert direction(prompt.ranks, a, b) == direction(known, a, b)
    pairs = {
        frozenset((p.preferred_id, p.other_id)): p for p in consensus.pairs if p.prompt_id == "p004"
    }
    for a, b in combinations(chosen, 2):
        pair = pairs[frozenset((a, b))]
        wanted = direction(known, pair.preferred_id, pair.other_id)
        assert wanted >= 0 and (pair.confidence >= 0.99 if wanted else pair.confidence == 0.5)
        assert pair.probability >= 0.5 and sum(pair.votes.to_json().values()) == 3
    for pair in pairs.values():  # no pair goes against the ranks
        assert (
            pair.confidence == 0.5 or prompt.ranks[pair.preferred_id] <= prompt.ranks[pair.other_id]
        )
    others = [p for p in consensus.prompts if p.prompt_id != "p004"]
    assert not any(p.settled for p in others)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_several_known_orders_of_one_prompt_hold_together(seed):
    """Parts of one true order, overlapping or not."""
    rng = np.random.default_rng(seed)
    ids, _, _, rankings = pool(prompts=8, k=6, seed=seed % 50)
    names = ids["p002"]
    true = {name: int(rng.integers(1, 7)) for name in names}
    parts = [
        {str(n): true[str(n)] for n in rng.permutation(names)[: rng.integers(2, 5)]}
        for _ in range(rng.integers(1, 4))
    ]
    assert not contradictory(parts)
    consensus = fit_consensus(rankings, ids, method="factor", gold={"p002": parts})
    ranks = next(p.ranks for p in consensus.prompts if p.prompt_id == "p002")
    for part in parts:
        for a, b in combinations(part, 2):
            assert direction(ranks, a, b) == direction(part, a, b)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=2), max_size=4)
)
def test_contradictory_equals_trying_every_order(orders):
    def agrees(ranks):
        return all(
            direction(ranks, a, b) == direction(order, a, b)
            for order in orders
            for a, b in combinations(order, 2)
        )

    levels = {tuple(p) for p in permutations([1, 2, 3, 4] * 2, 4)} | {(1, 1, 1, 1)}
    levels |= {p for x in (1, 2) for y in (1, 2) for p in permutations((x, x, x, y))}
    possible = any(agrees(dict(zip("abcd", level, strict=True))) for level in levels)
    assert contradictory(orders) is not possible


def test_what_cannot_be_a_known_order_is_refused_in_a_sentence():
    ids, _, _, rankings = pool(prompts=3)
    a, b, c, _ = ids["p001"]
    cases = [
        ({"p001": {a: 1, "ghost": 2}}, "'ghost'"),
        ({"p001": [{a: 1, b: 2}, {b: 1, c: 2}, {c: 1, a: 2}]}, "contradict"),
        ({"p001": [{a: 1, b: 2}, {a: 1, b: 1, c: 2}]}, "contradict"),
        ({"p001": {a: 1}}, "known order of prompt 'p001'"),
    ]
    for gold, says in cases:
        with pytest.raises(InputError, match=says):
            fit_consensus(rankings, ids, gold=gold)
    fit_consensus(rankings, ids, gold={"nobody ranked this": {"x": 1, "y": 2}})


def test_an_update_keeps_known_orders_in_force(monkeypatch):
    monkeypatch.setattr(module, "REFIT_ROWS", 0)
    ids, _, _, rankings = pool(prompts=40)
    a, b, c, d = ids["p007"]
    gold = {"p007": [{a: 1, b: 2}, {c: 1, d: 1}]}
    consensus = fit_consensus(rankings, ids, method="factor", gold=gold)
    for n in range(4):
        against = Ranking("p007", f"new-{n}", {a: 4, b: 1, c: 2, d: 3})
        consensus = update_consensus(consensus, against)
    prompt = next(p for p in consensus.prompts if p.prompt_id == "p007")
    assert prompt.ranks[a] < prompt.ranks[b] and prompt.ranks[c] == prompt.ranks[d]
    assert prompt.settled and prompt.rankings == 7


def test_gold_on_a_few_prompts_turns_a_reversed_majority_whatever_k():
    for k in (2, 9):
        ids, utilities, _, rankings = pool(
            prompts=120, k=k, careful=2, noisy=0, random=0, reversed=6, position_biased=0
        )
        gold = {
            p: {n: 1 + sorted(ids[p], key=lambda m: -utilities[m]).index(n) for n in ids[p]}
            for p in list(ids)[:40]
        }
        assert (
            right_share(fit_consensus(rankings, ids, method="factor", gold=gold), utilities) > 0.8
        )


def test_none_acceptable_is_counted_and_its_order_counts_as_any_other():
    rankings = simple({"a": 1, "b": 2, "c": 3}, prompts=20)
    refused = [
        Ranking(r.prompt_id, r.labeler_id, r.ranks, none_acceptable=n % 3 != 0)
        if r.prompt_id == "p3"
        else r
        for n, r in enumerate(rankings)
    ]
    plain, marked = fit_consensus(rankings), fit_consensus(refused)
    assert [p.none_acceptable for p in marked.prompts if p.prompt_id == "p3"] == [2]
    assert sum(p.none_acceptable for p in marked.prompts) == 2
    assert marked.summary.unacceptable_prompts == 1 and plain.summary.unacceptable_prompts == 0
    assert list(marked.pairs) == list(plain.pairs)


def test_an_update_counts_none_acceptable_and_supersedes_it(monkeypatch):
    monkeypatch.setattr(module, "REFIT_ROWS", 0)
    consensus = fit_consensus(simple({"a": 1, "b": 2, "c": 3}, prompts=20))

    def held():
        return [p.none_acceptable for p in consensus.prompts if p.none_acceptable]

    first = Ranking("p3", "l0", {"a": 1, "b": 2, "c": 3}, none_acceptable=True)
    consensus = update_consensus(consensus, first)
    other = Ranking("p3", "l0", {"d": 1, "e": 2}, none_acceptable=True)
    consensus = update_consensus(consensus, other)  # another task of the same prompt
    assert held() == [2]
    consensus = update_consensus(consensus, Ranking("p3", "l0", {"a": 3, "b": 2, "c": 1}))
    assert held() == [1] and consensus.summary.rankings == 61


def test_a_repeat_shares_the_weight_and_another_task_does_not(monkeypatch):
    monkeypatch.setattr(module, "REFIT_ROWS", 0)
    rankings = simple({"a": 1, "b": 2, "c": 3}, labelers=2, prompts=10)
    other = simple({"d": 1, "e": 2}, labelers=2, prompts=10)
    both = fit_consensus([*rankings, *other], method="factor")
    assert both.workings is not None and set(both.workings.scores.weight) == {1.0}
    again = fit_consensus([*rankings, *other, rankings[0]], method="factor")
    assert again.workings is not None
    assert sorted(again.workings.scores.weight)[:2] == [0.5, 0.5]
    updated = update_consensus(both, rankings[0], repeat=True)
    assert updated.workings is not None
    assert (updated.workings.scores.weight == again.workings.scores.weight).all()
    assert updated.summary.rankings == 41


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("k", [2, 4])
def test_adjudications_against_a_unanimous_vote_leave_all_other_prompts_alone(method, k):
    """Gold of a few prompts may turn everybody; adjudications are of disputed prompts and have no say on labelers."""
    order = {name: rank for rank, name in enumerate("abcd"[:k], start=1)}
    rankings = simple(order, prompts=12)
    overruled = {f"p{p}": {name: k + 1 - rank for name, rank in order.items()} for p in range(6)}
    plain = fit_consensus(rankings, method=method)
    settled = fit_consensus(rankings, method=method, adjudicated=overruled)
    for before, after in zip(plain.prompts, settled.prompts, strict=True):
        assert after.ranks == overruled.get(after.prompt_id, before.ranks)
    for before, after in zip(plain.labelers, settled.labelers, strict=True):
        assert after.reliability == pytest.approx(before.reliability, abs=1e-6)
    here, there = by_names(settled), by_names(plain)
    for key in here:
        assert key[0] in overruled or here[key] == pytest.approx(there[key], abs=1e-6)
    assert settled.summary.message == plain.summary.message
