"""Preference pairs from the consensus."""

import pytest

from alignment.errors import InputError
from alignment.feedback.consensus import fit_consensus
from alignment.feedback.pairs import preference_pairs, split_by_prompt
from alignment.records import PreferencePair, Ranking

PROMPTS = {f"p{p}": f"prompt {p}" for p in range(10)}
TEXTS = {f"p{p}{c}": f"text {p}{c}" for p in range(10) for c in "abc"}


def rankings(orders=("abc", "abc", "acb"), prompts=10):
    return [
        Ranking(
            f"p{p}", f"labeler-{n}", {f"p{p}{c}": rank for rank, c in enumerate(order, start=1)}
        )
        for p in range(prompts)
        for n, order in enumerate(orders)
    ]


def test_pairs_carry_texts_ids_votes_and_lie_surest_first():
    pairs = preference_pairs(fit_consensus(rankings(), method="factor"), PROMPTS, TEXTS)
    assert len(pairs) == 30
    first = [pair for pair in pairs if pair.prompt_id == "p0"]
    assert (first[0].prompt, first[0].chosen) == ("prompt 0", "text 0a")
    assert [pair.confidence for pair in first] == sorted(
        (p.confidence for p in first), reverse=True
    )
    by_ids = {(pair.chosen_id, pair.rejected_id): pair for pair in first}
    assert by_ids["p0b", "p0c"].votes.to_json() == {"chosen": 2, "rejected": 1, "tie": 0}
    assert all(0.5 < pair.probability < pair.confidence <= 1 for pair in pairs)
    assert PreferencePair.from_json(first[0].to_json()) == first[0]


def test_the_cap_keeps_the_surest_and_the_floor_drops_the_unsure():
    consensus = fit_consensus(rankings(), method="factor")
    every = preference_pairs(consensus, PROMPTS, TEXTS)
    capped = preference_pairs(consensus, PROMPTS, TEXTS, max_pairs_per_prompt=1)
    surest = {}
    for pair in every:
        surest.setdefault(pair.prompt_id, pair)
        assert pair.confidence <= surest[pair.prompt_id].confidence
    assert capped == list(surest.values()) and len(capped) == 10
    floor = sorted(pair.confidence for pair in every)[12]
    kept = preference_pairs(consensus, PROMPTS, TEXTS, min_confidence=floor)
    assert kept == [pair for pair in every if pair.confidence >= floor] and len(kept) < len(every)


def test_pairs_of_equal_text_are_left_out():
    texts = {**TEXTS, "p0b": TEXTS["p0a"]}
    pairs = preference_pairs(fit_consensus(rankings(), method="factor"), PROMPTS, texts)
    assert len(pairs) == 29
    assert not [p for p in pairs if p.chosen == p.rejected]


def test_nothing_usable_says_why_and_what_to_do():
    consensus = fit_consensus(rankings(), method="factor")
    with pytest.raises(InputError, match=r"30 compare equal texts.*temperature"):
        preference_pairs(consensus, PROMPTS, dict.fromkeys(TEXTS, "same"))
    with pytest.raises(InputError, match=r"30 are less sure.*Lower the confidence floor"):
        preference_pairs(consensus, PROMPTS, TEXTS, min_confidence=0.9999999)
    level = [Ranking("p0", name, {"p0a": 1, "p0b": 1}) for name in ("x", "y")]
    with pytest.raises(InputError, match=r"1 are level.*guidelines"):
        preference_pairs(fit_consensus(level), PROMPTS, TEXTS)


def test_missing_texts_and_bad_options_are_refused():
    consensus = fit_consensus(rankings(prompts=1))
    with pytest.raises(InputError, match="'p0'"):
        preference_pairs(consensus, {}, TEXTS)
    with pytest.raises(InputError, match="'p0c'"):
        preference_pairs(consensus, PROMPTS, {"p0a": "a", "p0b": "b"})
    with pytest.raises(InputError, match=r"min_confidence is 0\.4"):
        preference_pairs(consensus, PROMPTS, TEXTS, min_confidence=0.4)
    with pytest.raises(InputError, match="max_pairs_per_prompt is 0"):
        preference_pairs(consensus, PROMPTS, TEXTS, max_pairs_per_prompt=0)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_the_split_is_by_prompt(fraction):
    pairs = preference_pairs(fit_consensus(rankings()), PROMPTS, TEXTS)
    train, held = split_by_prompt(pairs, fraction, seed=3)
    assert sorted(train + held, key=str) == sorted(pairs, key=str)
    train_prompts, held_prompts = ({p.prompt_id for p in side} for side in (train, held))
    assert not train_prompts & held_prompts
    assert len(held_prompts) == min(max(1, round(10 * fraction)), 9)
    assert split_by_prompt(list(reversed(pairs)), fraction, seed=3)[1] == held[::-1]


def test_a_split_of_one_prompt_is_refused():
    pairs = preference_pairs(fit_consensus(rankings(prompts=1)), PROMPTS, TEXTS)
    with pytest.raises(InputError, match="at least two"):
        split_by_prompt(pairs, 0.2, seed=0)
    with pytest.raises(InputError, match="held_out_fraction is 1"):
        split_by_prompt(pairs, 1, seed=0)


def test_pairs_of_prompts_without_an_acceptable_completion_can_be_left_out():
    marked = [
        Ranking(r.prompt_id, r.labeler_id, r.ranks, none_acceptable=r.prompt_id in ("p0", "p1"))
        for r in rankings()
    ]
    marked[0] = rankings()[0]  # of p0, two of three hold so
    consensus = fit_consensus(marked, method="factor")

    def prompts(most):
        pairs = preference_pairs(consensus, PROMPTS, TEXTS, max_none_acceptable=most)
        return {pair.prompt_id for pair in pairs}

    assert prompts(1.0) == set(PROMPTS)
    assert prompts(0.7) == set(PROMPTS) - {"p1"}
    assert prompts(0.5) == set(PROMPTS) - {"p0", "p1"}
    with pytest.raises(InputError, match="max_none_acceptable is 2"):
        preference_pairs(consensus, PROMPTS, TEXTS, max_none_acceptable=2)
    everything = fit_consensus(
        [Ranking(r.prompt_id, r.labeler_id, r.ranks, none_acceptable=True) for r in rankings()]
    )
    with pytest.raises(InputError, match="without an acceptable completion"):
        preference_pairs(everything, PROMPTS, TEXTS, max_none_acceptable=0.5)
