"""The consensus as a whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.config import SimulateConfig
from alignment.errors import InputError
from alignment.feedback import consensus as module
from alignment.feedback.consensus import METHODS, fit_consensus, update_consensus
from alignment.feedback.consensus_records import KINDS
from alignment.feedback.simulation import simulate_rankings
from alignment.records import Ranking


def pool(prompts=150, k=4, seed=0, **kinds):
    rng = np.random.default_rng(seed)
    ids = {f"p{p:03d}": [f"p{p:03d}c{c}" for c in range(k)] for p in range(prompts)}
    utilities = {name: float(rng.normal()) for names in ids.values() for name in names}
    config = SimulateConfig.model_validate({"seed": seed, **kinds})
    labelers, rankings = simulate_rankings(ids, utilities, config)
    return ids, utilities, labelers, rankings


def right_share(consensus, utilities):
    return np.mean([utilities[p.preferred_id] > utilities[p.other_id] for p in consensus.pairs])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_output(method):
    ids, utilities, _, rankings = pool()
    consensus = fit_consensus(rankings, ids, method=method)
    assert consensus.method == ("factor" if method == "auto" else method)
    assert len(consensus.pairs) == 150 * 6 == consensus.summary.pairs
    assert len(consensus.prompts) == 150 and len(consensus.labelers) == 12
    assert right_share(consensus, utilities) > 0.72
    for pair in consensus.pairs:
        assert 0 < pair.probability < 1
        assert 0 <= pair.confidence <= 1
        assert pair.votes.chosen + pair.votes.rejected + pair.votes.tie == 3
    text = json.dumps(consensus.to_json(), allow_nan=False)
    assert json.loads(text)["summary"]["reliable_signal"] is True


def test_the_factor_model_beats_the_simple_rules_and_names_the_faults():
    ids, utilities, labelers, rankings = pool(prompts=600)
    share = {m: right_share(fit_consensus(rankings, ids, method=m), utilities) for m in METHODS[1:]}
    assert share["factor"] > max(share["borda"] + 0.08, share["majority"] + 0.07)
    consensus = fit_consensus(rankings, ids)
    truth = {labeler.labeler_id: labeler.kind for labeler in labelers}
    assert {row.labeler_id: row.kind for row in consensus.labelers} == truth
    bad = {"random", "reversed", "position-biased"}
    assert {row.labeler_id for row in consensus.labelers if row.flagged} == {
        i for i in truth if truth[i] in bad
    }
    for row in consensus.labelers:
        assert row.low <= row.reliability <= row.high and row.evidence.endswith(".")
    s = consensus.summary
    assert s.trusted_agreement_with_consensus > s.agreement_with_consensus


def test_unknown_completions_and_methods_are_refused_by_name():
    ids, _, _, rankings = pool(prompts=3)
    first = rankings[0]
    renamed = replace(first, ranks={"ghost": 1, "spectre": 2}, positions=None)
    with pytest.raises(InputError, match="'ghost', 'spectre'"):
        fit_consensus([renamed, *rankings], ids)
    with pytest.raises(InputError, match="'elsewhere'"):
        fit_consensus([replace(first, prompt_id="elsewhere"), *rankings], ids)
    with pytest.raises(InputError, match="did you mean 'borda'"):
        fit_consensus(rankings, ids, method="bordaa")
    with pytest.raises(InputError, match="no rankings yet"):
        fit_consensus([], ids)


def simple(ranks, labelers=3, prompts=1, **kw):
    return [
        Ranking(f"p{p}", f"l{n}", dict(ranks), **kw)
        for p in range(prompts)
        for n in range(labelers)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_all_ties_end_in_a_sentence(method):
    consensus = fit_consensus(simple({"a": 1, "b": 1, "c": 1}, prompts=4), method=method)
    assert (
        not consensus.summary.reliable_signal and "completions level" in consensus.summary.message
    )
    assert consensus.prompts[0].ranks == {"a": 1, "b": 1, "c": 1}
    assert consensus.prompts[0].kendall_w is None and consensus.prompts[0].undefined["kendall_w"]
    assert all(pair.confidence == pytest.approx(0.5) for pair in consensus.pairs)
    json.dumps(consensus.to_json(), allow_nan=False)


@pytest.mark.parametrize("method", METHODS)
def test_one_labeler_ends_in_a_sentence(method):
    consensus = fit_consensus(simple({"a": 1, "b": 2}, labelers=1, prompts=5), method=method)
    assert not consensus.summary.reliable_signal and "two labelers" in consensus.summary.message
    assert consensus.summary.krippendorff_alpha is None
    assert "krippendorff_alpha" in consensus.summary.undefined
    assert consensus.labelers[0].kind == "too-few-to-tell"
    json.dumps(consensus.to_json(), allow_nan=False)


@pytest.mark.parametrize("method", METHODS)
def test_even_contradiction_ends_in_a_sentence(method):
    rankings = simple({"a": 1, "b": 2}, labelers=2, prompts=30)
    rankings = [replace(r, ranks={"a": 2, "b": 1}) if r.labeler_id == "l1" else r for r in rankings]
    consensus = fit_consensus(rankings, method=method)
    assert (
        not consensus.summary.reliable_signal and "No reliable signal" in consensus.summary.message
    )
    json.dumps(consensus.to_json(), allow_nan=False)


def test_a_unanimous_order_is_found_and_ties_are_kept():
    consensus = fit_consensus(simple({"a": 1, "b": 2, "c": 2, "d": 3}, prompts=30), method="factor")
    assert consensus.prompts[0].ranks == {"a": 1, "b": 2, "c": 2, "d": 4}
    assert consensus.prompts[0].kendall_w == pytest.approx(1)
    assert consensus.prompts[0].mean_tau_b == pytest.approx(1)
    assert consensus.summary.krippendorff_alpha == pytest.approx(1)
    assert consensus.summary.reliable_signal


def test_gold_prompts_decide_who_reads_the_scale_the_wrong_way():
    """Six reversed labelers against two careful ones: without gold the majority wins, with gold the truth does."""
    ids, utilities, _, rankings = pool(
        prompts=200, careful=2, noisy=0, random=0, reversed=6, position_biased=0
    )
    assert right_share(fit_consensus(rankings, ids, method="factor"), utilities) < 0.2
    gold = {
        p: {name: 1 + sorted(ids[p], key=lambda n: -utilities[n]).index(name) for name in ids[p]}
        for p in list(ids)[:40]
    }
    anchored = fit_consensus(rankings, ids, method="factor", gold=gold)
    assert right_share(anchored, utilities) > 0.8
    assert {row.labeler_id for row in anchored.labelers if row.kind == "reversed"} == {
        f"sim-reversed-{n}" for n in range(1, 7)
    }
    assert len(anchored.labelers) == 8 and anchored.summary.rankings == len(rankings)


def reverse(ranking):
    worst = max(ranking.ranks.values())
    return replace(ranking, ranks={name: worst + 1 - rank for name, rank in ranking.ranks.items()})


@st.composite
def small_rankings(draw):
    """A few prompts of 2 to 6 completions, some labelers, ties, gaps, with or without places, repeats."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(sizes) - 1),
                st.integers(0, 4),
                st.integers(0, 10**6),
                st.booleans(),
            ),
            min_size=1,
            max_size=24,
        )
    )
    rankings = []
    for p, labeler, seed, placed in rows:
        rng = np.random.default_rng(seed)
        names = [f"p{p}c{k}" for k in range(sizes[p])]
        ranked = (
            names
            if rng.random() < 0.7
            else list(rng.permutation(names)[: rng.integers(2, len(names) + 1)])
        )
        ranks = {str(name): int(rng.integers(1, len(names) + 1)) for name in ranked}
        places = rng.permutation(len(names)).tolist()
        positions = (
            {name: places[k] for k, name in enumerate(names) if name in ranks} if placed else None
        )
        rankings.append(Ranking(f"p{p}", f"l{labeler}", ranks, positions))
    return rankings


def by_names(consensus):
    """(prompt, completion, completion) -> confidence in the order of the names."""
    return {
        (pair.prompt_id, *sorted((pair.preferred_id, pair.other_id))): (
            pair.confidence if pair.preferred_id < pair.other_id else 1 - pair.confidence
        )
        for pair in consensus.pairs
    }


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(small_rankings(), st.sampled_from(METHODS), st.sampled_from(["count", "once"]))
def test_whatever_the_rankings_every_figure_is_a_number_or_says_why_not(
    rankings, method, duplicates
):
    consensus = fit_consensus(rankings, method=method, duplicates=duplicates)
    json.dumps(consensus.to_json(), allow_nan=False)
    for pair in consensus.pairs:
        assert 0.5 <= pair.confidence <= 1 and 0 <= pair.probability <= 1
    for prompt in consensus.prompts:
        for figure in ("kendall_w", "mean_tau_b"):
            assert (getattr(prompt, figure) is None) == (figure in prompt.undefined)
        assert min(prompt.ranks.values()) == 1 and prompt.min_confidence is not None
    for figure, value in consensus.summary.to_json().items():
        assert (value is None) == (figure in consensus.summary.undefined)
    assert {row.labeler_id for row in consensus.labelers} == {r.labeler_id for r in rankings}
    for row in consensus.labelers:
        assert -1 <= row.low <= row.reliability <= row.high <= 1 and row.kind in KINDS
    assert consensus.summary.message.endswith(".")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(METHODS[1:]), st.integers(2, 5))
def test_the_order_of_the_input_and_the_names_do_not_matter(seed, method, k):
    ids, _, _, rankings = pool(prompts=25, k=k, seed=seed)
    rng = np.random.default_rng(seed)
    plain = fit_consensus(rankings, method=method)
    labeler_names = {r.labeler_id: f"{rng.integers(10**9):09d}" for r in rankings}
    prompt_names = {p: f"{rng.integers(10**9):09d}" for p in ids}
    names = {name: f"{rng.integers(10**9):09d}" for group in ids.values() for name in group}
    renamed = [
        Ranking(
            prompt_names[r.prompt_id],
            labeler_names[r.labeler_id],
            {names[name]: rank for name, rank in r.ranks.items()},
            {names[name]: place for name, place in r.positions.items()},
        )
        for r in rankings
    ]
    other = fit_consensus([renamed[i] for i in rng.permutation(len(renamed))], method=method)
    there = by_names(other)
    for (prompt, first, second), confidence in by_names(plain).items():
        a, b = names[first], names[second]
        key = (prompt_names[prompt], *sorted((a, b)))
        assert (there[key] if a < b else 1 - there[key]) == pytest.approx(confidence, abs=2e-3)
    figures, others = plain.summary.to_json(), other.summary.to_json()
    for figure in ("krippendorff_alpha", "pairwise_agreement", "agreement_with_consensus"):
        assert figures[figure] == pytest.approx(others[figure], abs=0.02)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(METHODS[1:]), st.integers(2, 5))
def test_reversing_every_ranking_reverses_the_consensus(seed, method, k):
    _, _, _, rankings = pool(prompts=25, k=k, seed=seed)
    forward = by_names(fit_consensus(rankings, method=method))
    backward = by_names(fit_consensus([reverse(r) for r in rankings], method=method))
    assert forward.keys() == backward.keys()
    for key, confidence in forward.items():
        assert backward[key] == pytest.approx(1 - confidence, abs=2e-3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_a_random_clicker_never_flips_a_confident_pair(seed):
    ids, _, _, rankings = pool(prompts=120, seed=seed)
    rng = np.random.default_rng(seed)
    clicks = [
        Ranking(p, "clicker", dict(zip(names, (rng.permutation(4) + 1).tolist(), strict=True)))
        for p, names in ids.items()
    ]
    before = by_names(fit_consensus(rankings, method="factor"))
    after = by_names(fit_consensus([*rankings, *clicks], method="factor"))
    for key, confidence in before.items():
        if abs(confidence - 0.5) > 0.45:
            assert (after[key] - 0.5) * (confidence - 0.5) > 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.02, 1))
def test_any_part_of_the_rows_gives_a_consensus(seed, share):
    ids, _, _, rankings = pool(prompts=30, seed=seed % 7)
    rng = np.random.default_rng(seed)
    part = [r for r in rankings if rng.random() < share] or rankings[:1]
    consensus = fit_consensus(part, ids)
    assert consensus.summary.rankings == len(part) and consensus.summary.message


def test_copies_of_a_labeler_count_once_where_that_is_asked():
    _, _, _, rankings = pool(prompts=60)
    plain = fit_consensus(rankings)
    copied = "sim-reversed-1"
    own = [r for r in rankings if r.labeler_id == copied]
    doubled = [*rankings, *(replace(r, labeler_id=f"copy-{n}") for n in (1, 2) for r in own)]
    once = fit_consensus(doubled, duplicates="once")
    assert by_names(once) == pytest.approx(by_names(plain))
    rows = {row.labeler_id: row for row in once.labelers}
    assert "counted once" in rows["sim-reversed-1"].evidence and rows["sim-reversed-1"].flagged
    assert once.summary.labelers == plain.summary.labelers + 2 == len(once.labelers)
    assert rows["copy-1"].reliability == pytest.approx(rows[copied].reliability)
    counted = fit_consensus(doubled)
    assert by_names(counted) != pytest.approx(by_names(plain), abs=1e-4)


def test_a_labeler_who_ranks_a_prompt_twice_weighs_as_much_as_once():
    rankings = simple({"a": 1, "b": 2, "c": 3}, labelers=2, prompts=30)
    again = [*rankings, *(r for r in rankings if r.labeler_id == "l0")]
    once, twice = (fit_consensus(r, method="factor") for r in (rankings, again))
    for a, b in zip(once.pairs, twice.pairs, strict=True):
        assert a.confidence == pytest.approx(b.confidence, abs=1e-3)


def test_different_numbers_of_completions_fit_in_one():
    parts = [pool(prompts=40, k=k, seed=k) for k in (2, 4, 9)]
    rename = [(f"k{n}-", part) for n, part in enumerate(parts)]
    rankings, utilities = [], {}
    for prefix, (_, u, _, rows) in rename:
        utilities |= {prefix + name: value for name, value in u.items()}
        for r in rows:
            ranks = {prefix + name: rank for name, rank in r.ranks.items()}
            places = {prefix + name: place for name, place in r.positions.items()}
            rankings.append(Ranking(prefix + r.prompt_id, r.labeler_id, ranks, places))
    consensus = fit_consensus(rankings, method="factor")
    assert len(consensus.pairs) == 40 * (1 + 6 + 36)
    assert right_share(consensus, utilities) > 0.83
    assert {len(prompt.ranks) for prompt in consensus.prompts} == {2, 4, 9}


def test_partial_rankings_are_joined_through_shared_completions_only():
    """l0 ranks a > b, l1 ranks b > c: a > c follows. Nobody links d and e to them."""
    rankings = [
        Ranking("p", "l0", {"a": 1, "b": 2}),
        Ranking("p", "l1", {"b": 1, "c": 2}),
        Ranking("p", "l2", {"d": 1, "e": 2}),
        *(
            replace(r, prompt_id=f"other-{r.prompt_id}")
            for r in simple({"x": 1, "y": 2, "z": 3}, prompts=20)
        ),
    ]
    for method in METHODS:
        pairs = [
            pair for pair in fit_consensus(rankings, method=method).pairs if pair.prompt_id == "p"
        ]
        found = {(pair.preferred_id, pair.other_id) for pair in pairs}
        assert found == {("a", "b"), ("b", "c"), ("a", "c"), ("d", "e")}, method


def test_most_trusted_votes_for_a_tie_make_a_tie():
    rankings = [
        Ranking(f"p{p}", f"l{n}", {f"p{p}a": 1, f"p{p}b": 1 if n < 2 else 2, f"p{p}c": 3})
        for p in range(30)
        for n in range(3)
    ]
    for prompt in fit_consensus(rankings, method="factor").prompts:
        assert list(prompt.ranks.values()) == [1, 1, 3]


def test_groups_of_labelers_without_a_shared_prompt_are_named():
    rankings = simple({"a": 1, "b": 2, "c": 3}, prompts=20)
    rankings += [
        replace(r, prompt_id="other-" + r.prompt_id, labeler_id="other-" + r.labeler_id)
        for r in rankings
    ]
    summary = fit_consensus(rankings).summary
    assert summary.components == 2 and "2 groups" in summary.message


def test_everybody_reversed_is_a_consensus_that_only_gold_can_turn():
    ids, utilities, _, rankings = pool(
        prompts=60, careful=0, noisy=0, random=0, reversed=5, position_biased=0
    )
    assert right_share(fit_consensus(rankings), utilities) < 0.2
    gold = {
        p: {n: 1 + sorted(names, key=lambda m: -utilities[m]).index(n) for n in names}
        for p, names in ids.items()
    }
    settled = fit_consensus(rankings, gold=gold)
    assert right_share(settled, utilities) > 0.97
    assert {row.kind for row in settled.labelers} == {"reversed"}


def test_two_camps_of_equal_size_end_in_a_sentence():
    _, _, _, rankings = pool(
        prompts=100, careful=3, noisy=0, random=0, reversed=3, position_biased=0
    )
    summary = fit_consensus(rankings).summary
    assert not summary.reliable_signal and "camps" in summary.message


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [2, 4])
def test_random_clickers_alone_give_no_reliable_signal(seed, k):
    _, _, _, rankings = pool(
        prompts=80, k=k, seed=seed, careful=0, noisy=0, random=8, reversed=0, position_biased=0
    )
    assert not fit_consensus(rankings).summary.reliable_signal


def test_labelers_who_all_follow_the_place_on_the_screen_give_no_reliable_signal():
    _, _, _, rankings = pool(
        prompts=80, careful=0, noisy=0, random=0, reversed=0, position_biased=4
    )
    by_place = [
        replace(r, ranks={name: place + 1 for name, place in r.positions.items()}) for r in rankings
    ]
    consensus = fit_consensus(by_place)
    assert {row.kind for row in consensus.labelers} == {"position-biased"}
    assert not consensus.summary.reliable_signal and "screen" in consensus.summary.message


def test_a_gold_order_that_is_none_is_refused():
    _, _, _, rankings = pool(prompts=3)
    with pytest.raises(InputError, match="known order of prompt 'p000'"):
        fit_consensus(rankings, gold={"p000": {"p000c0": 1}})


def close(a, b, tolerance):
    assert a.summary.krippendorff_alpha == pytest.approx(b.summary.krippendorff_alpha, abs=1e-9)
    assert [row.labeler_id for row in a.labelers] == [row.labeler_id for row in b.labelers]
    for x, y in zip(a.labelers, b.labelers, strict=True):
        assert x.reliability == pytest.approx(y.reliability, abs=tolerance) and x.count == y.count
    here, there = by_names(a), by_names(b)
    assert here.keys() == there.keys()
    assert max(abs(here[key] - there[key]) for key in here) < tolerance
    for x, y in zip(a.prompts, b.prompts, strict=True):
        assert x.kendall_w == pytest.approx(y.kendall_w) and x.mean_tau_b == pytest.approx(
            y.mean_tau_b
        )
        assert x.rankings == y.rankings and x.undefined == y.undefined


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("refit_rows", [0, 10_000])
def test_an_update_agrees_with_a_full_fit(monkeypatch, method, refit_rows):
    """Rankings of known and new prompts, labelers and completions, one of them superseding."""
    monkeypatch.setattr(module, "REFIT_ROWS", refit_rows)
    _, _, _, rankings = pool(prompts=150)
    start, later = rankings[:-6], rankings[-6:]
    again = replace(rankings[7], ranks=dict(zip(rankings[7].ranks, [4, 3, 2, 1], strict=True)))
    extra = Ranking("a-new-prompt", "newcomer", {"n1": 1, "n2": 2})
    wider = Ranking("p003", "newcomer", {**dict.fromkeys(["p003c0", "p003c1"], 1), "p003c9": 2})
    consensus = fit_consensus(start, method=method)
    for ranking in (*later, again, extra, wider):
        consensus = update_consensus(consensus, ranking)
    everything = [r for r in rankings if r != rankings[7]] + [again, extra, wider]
    close(consensus, fit_consensus(everything, method=method), 0.01)


def test_an_update_refuses_what_a_fit_refuses():
    ids, _, _, rankings = pool(prompts=5)
    consensus = fit_consensus(rankings, ids)
    with pytest.raises(InputError, match="'ghost'"):
        update_consensus(consensus, Ranking("p000", "x", {"ghost": 1, "p000c0": 2}), ids)
    bare = replace(consensus, workings=None)
    with pytest.raises(InputError, match="Compute it anew"):
        update_consensus(bare, rankings[0])


def test_records_are_lists_that_can_be_read_again_and_sliced():
    _, _, _, rankings = pool(prompts=5)
    pairs = fit_consensus(rankings).pairs
    assert pairs[-1] == pairs[len(pairs) - 1] and pairs[:2] == [pairs[0], pairs[1]]
    assert list(pairs) == list(pairs) and pairs == list(pairs)
    with pytest.raises(IndexError):
        pairs[len(pairs)]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(METHODS[1:]), st.integers(2, 5), st.integers(1, 3))
def test_copies_of_any_labeler_change_nothing_where_they_count_once(seed, method, k, copies):
    _, _, _, rankings = pool(prompts=30, k=k, seed=seed)
    rng = np.random.default_rng(seed)
    copied = str(rng.choice(sorted({r.labeler_id for r in rankings})))
    own = [r for r in rankings if r.labeler_id == copied]
    doubled = [
        *rankings,
        *(replace(r, labeler_id=f"zz-copy-{n}") for n in range(copies) for r in own),
    ]
    doubled = [doubled[i] for i in rng.permutation(len(doubled))]
    plain = by_names(fit_consensus(rankings, method=method, duplicates="once"))
    once = fit_consensus(doubled, method=method, duplicates="once")
    assert by_names(once) == pytest.approx(plain, abs=1e-6)
    rows = {row.labeler_id: row for row in once.labelers}
    assert len(own) < 5 or all(
        rows[f"zz-copy-{n}"].flagged and "counted once" in rows[f"zz-copy-{n}"].evidence
        for n in range(copies)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labelers", [1, 2, 5])
@pytest.mark.parametrize("k", [2, 4, 9])
def test_one_prompt_with_full_rankings_ends_in_a_sentence(method, labelers, k):
    """Agreeing or contradicting: one prompt orders its completions and says how little that proves."""
    order = {f"c{n}": n + 1 for n in range(k)}
    agreeing = simple(order, labelers=labelers)
    consensus = fit_consensus(agreeing, method=method)
    (prompt,) = consensus.prompts
    assert prompt.ranks == order and len(consensus.pairs) == k * (k - 1) // 2
    assert all(pair.preferred_id < pair.other_id for pair in consensus.pairs)
    assert all(0.5 < pair.confidence <= 1 for pair in consensus.pairs)
    assert {row.kind for row in consensus.labelers} == {"too-few-to-tell"}
    assert not any(row.flagged for row in consensus.labelers)
    assert consensus.summary.krippendorff_low is None
    assert consensus.summary.undefined["krippendorff_low"].endswith(".")
    assert consensus.summary.message.endswith(".")
    json.dumps(consensus.to_json(), allow_nan=False)
    split = [reverse(r) if n % 2 else r for n, r in enumerate(agreeing)]
    json.dumps(fit_consensus(split, method=method).to_json(), allow_nan=False)
