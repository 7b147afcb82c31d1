"""The trust figures: hand-computed values, and what they must notice on data with a known fault."""

import json

import numpy as np
import pytest
from scipy.special import expit

from alignment.evaluation.reward_page import reward_section
from alignment.feedback.consensus import fit_consensus
from alignment.feedback.labeler_votes import labeler_evidence
from alignment.feedback.pairs import preference_pairs
from alignment.models.reward_heads import region_warning, sd_quantiles, share_unknown
from alignment.records import LabelerEvidence, LabelerVote, PreferencePair, Ranking
from alignment.training import reward_trust as trust
from alignment.training.reward_card import model_card
from alignment.training.reward_figures import trust_figures
from alignment.training.reward_groups import group_pairs


def scored_groups(tokenizer, prompts=40, heads=3, seed=0, sharp=1.0, length_slope=0.0):
    """Groups of four completions whose labels come from utilities, with scores `sharp` times them."""
    rng = np.random.default_rng(seed)
    scored = []
    for p in range(prompts):
        texts = [" kind" * int(n) + f" {p}{k}" for k, n in enumerate(rng.integers(1, 9, 4))]
        u = rng.standard_normal(4)
        pairs = [
            PreferencePair(f"Prompt {p}", texts[i], texts[j], q, q, f"p{p}", f"{p}.{i}", f"{p}.{j}")
            for i in range(4)
            for j in range(4)
            if u[i] > u[j]
            for q in [float(expit(u[i] - u[j]))]
        ]
        groups, _ = group_pairs(tokenizer, pairs, 400)
        group = groups[0]
        own = np.array([u[int(name.split(".")[1])] for name in group.index])
        scores = sharp * own + length_slope * group.lengths
        noise = 0.05 * rng.standard_normal((4, heads))
        scored.append((group, scores[:, None] + noise - noise.mean(1, keepdims=True)))
    return scored


def test_accuracy_counts_pairs_in_the_consensus_order_and_leaves_ties_out():
    pairs = trust.ScoredPairs(
        prompt=np.array([0, 0, 1, 1]),
        difference=np.array([1.0, -1.0, -2.0, 0.0]),
        sd=np.ones(4),
        probability=np.array([0.9, 0.8, 0.3, 0.5]),
        prompt_tokens=np.array([3, 3, 5, 5]),
    )
    assert pairs.ordered.tolist() == [True, True, True, False]
    assert pairs.right[pairs.ordered].tolist() == [True, False, True]
    assert trust.by_margin(pairs) == [
        {"range": "0.7-0.8", "pairs": 1, "accuracy": 1.0},
        {"range": "0.8-0.9", "pairs": 1, "accuracy": 0.0},
        {"range": "0.9-1", "pairs": 1, "accuracy": 1.0},
    ]
    assert [row["pairs"] for row in trust.by_prompt_length(pairs)] == [2, 1]


def test_the_temperature_undoes_overconfidence(tokenizer):
    for sharp in (0.25, 1.0, 4.0):
        pairs = trust.scored_pairs(scored_groups(tokenizer, sharp=sharp))
        found = trust.fit_temperature(pairs.difference, pairs.probability)
        assert found == pytest.approx(sharp, rel=0.02)
        assert trust.calibration(pairs.difference, pairs.probability, found)[0] < 0.01
    before, bins = trust.calibration(pairs.difference, pairs.probability, 1.0)
    assert before > 0.1 and all(b["predicted"] > b["observed"] - 0.02 for b in bins)


def test_calibration_by_hand():
    """Two pairs: predicted 0.9 against 0.7, and, turned round, 0.6 against 0.8."""
    logit = np.log([0.9 / 0.1, 0.6 / 0.4])
    ece, bins = trust.calibration(np.array([logit[0], -logit[1]]), np.array([0.7, 0.2]), 1.0)
    assert ece == pytest.approx(0.2)
    assert [b["observed"] for b in bins] == pytest.approx([0.8, 0.7])
    losses = trust.log_losses(np.array([2 * logit[0]]), np.array([0.7]), 2.0)
    assert losses[0] == pytest.approx(-0.7 * np.log(0.9) - 0.3 * np.log(0.1))


def test_length_bias_is_found_and_taken_off(tokenizer):
    fair, biased = (
        trust.bias(part, part, trust.lengths(part))
        for part in (scored_groups(tokenizer), scored_groups(tokenizer, length_slope=0.5))
    )
    assert abs(fair["correlation"]) < 0.25 < 0.7 < biased["correlation"]
    assert biased["slope"] == pytest.approx(0.5, abs=0.05)
    assert abs(biased["corrected"]) < 1e-9
    assert biased["labels"] == pytest.approx(fair["labels"])


def test_position_bias_needs_known_places(tokenizer):
    scored = scored_groups(tokenizer, prompts=10)
    nowhere = trust.bias(scored, scored, trust.places_shown(scored, LabelerEvidence()))
    assert nowhere == {"correlation": None, "labels": None, "slope": None, "corrected": None}
    places = {
        name: -float(scores.mean(-1)[at])
        for group, scores in scored
        for name, at in group.index.items()
    }
    shown = trust.places_shown(scored, LabelerEvidence(positions=places))
    assert trust.bias(scored, scored, shown)["correlation"] == pytest.approx(-1)


def test_the_ceiling_is_the_share_of_votes_that_go_with_the_consensus(tokenizer):
    scored = scored_groups(tokenizer, prompts=2)

    def votes(group, labeler, right, trusted):
        names = list(group.index)
        return [
            LabelerVote(
                labeler, labeler, trusted, group.prompt_id, *order, with_others=order[0] < order[1]
            )
            for i, j in zip(group.first, group.second, strict=True)
            for order in [(names[i], names[j]) if right else (names[j], names[i])]
        ]

    cast = [v for g, _ in scored for v in votes(g, "careful", True, True)]
    cast += [v for g, _ in scored for v in votes(g, "reversed", False, False)]
    cast.append(LabelerVote("careful", "careful", True, "elsewhere", "a", "b"))
    limits = trust.ceiling(scored, cast)
    assert (limits["trusted"].mean, limits["all"].mean) == (1.0, 0.5)
    against = [v.with_others for v in cast if v.with_others is not None and v.trusted]
    assert limits["left_out"].mean == pytest.approx(np.mean(against))
    groups = trust.by_labeler_group(scored, cast)
    assert [(row["group"], row["votes"]) for row in groups] == [("careful", 12), ("reversed", 12)]
    assert groups[0]["accuracy"] == pytest.approx(1 - groups[1]["accuracy"])
    assert trust.ceiling(scored, [])["trusted"] is None


def test_labelers_rankings_become_votes():
    rankings = [
        Ranking("p", "ann", {"a": 1, "b": 2, "c": 2}, {"a": 0, "b": 1, "c": 2}),
        Ranking("q", "bob", {"a": 1, "b": 2}, {"a": 2, "b": 0}),
        Ranking("p", "new", {"a": 2, "b": 1}),
    ]
    labelers = [{"labeler_id": "ann", "kind": "careful", "flagged": False}]
    evidence = labeler_evidence(rankings, labelers, {"p"})
    assert [(v.labeler_id, v.preferred_id, v.other_id, v.trusted) for v in evidence.votes] == [
        ("ann", "a", "b", True),
        ("ann", "a", "c", True),
        ("new", "b", "a", False),
    ]
    assert evidence.positions == {"a": 1.0, "b": 0.5, "c": 2.0}
    assert LabelerEvidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence


def test_a_trusted_labeler_is_held_against_the_others():
    def says(labeler, *order):
        ranks = dict(zip(order, (1, 2, 3), strict=True))
        return [Ranking(f"p{n}", labeler, ranks) for n in range(12)]

    rankings = [
        *says("ann", "a", "b", "c"),
        *says("bob", "a", "b", "c"),
        *says("eve", "b", "a", "c"),
    ]
    labelers = [
        {"labeler_id": name, "kind": "careful", "flagged": False} for name in ("ann", "eve")
    ]
    votes = labeler_evidence(rankings, labelers, {"p0"}).votes
    found = {(v.labeler_id, v.preferred_id, v.other_id): v.with_others for v in votes}
    assert found["eve", "b", "a"] is False and found["eve", "a", "c"] is True
    assert found["ann", "b", "c"] is True
    assert found["bob", "a", "b"] is None  # not among the trusted


def test_pairs_that_labelers_call_equal_are_kept_where_ties_are_wanted():
    rankings = [Ranking("p", f"l{n}", {"a": 1, "b": 1, "c": 2}) for n in range(3)]
    rankings += [Ranking("q", f"l{n}", {"a": 1, "b": 2}) for n in range(3)]
    consensus = fit_consensus(rankings, {"p": ["a", "b", "c"], "q": ["a", "b"]}, method="majority")
    prompts, texts = {"p": "P", "q": "Q"}, {"a": "one", "b": "two", "c": "three"}
    ordered = preference_pairs(consensus, prompts, texts)
    assert len(ordered) == 3 and all(pair.probability > 0.5 for pair in ordered)
    with_ties = preference_pairs(consensus, prompts, texts, keep_ties=True)
    (tie,) = [pair for pair in with_ties if pair not in ordered]
    assert (tie.chosen_id, tie.rejected_id, tie.probability) == ("a", "b", 0.5)


def test_the_worst_examples_come_first_and_are_wrong(tokenizer):
    scored = scored_groups(tokenizer, prompts=12, seed=3, length_slope=0.3)
    rows = trust.worst(scored, 1.0, count=5)
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    assert all(row["chosen_score"] <= row["rejected_score"] for row in rows)
    assert all(row["probability"] > 0.5 for row in rows)


def test_uncertainty_tells_the_surer_half_and_the_region_that_is_not_known(tokenizer):
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.1, 3, 400)
    difference = rng.standard_normal(400) * sd + 1
    pairs = trust.ScoredPairs(np.arange(400), difference, sd, np.full(400, 0.9), np.full(400, 5))
    halves = trust.uncertainty(pairs)
    assert halves["accuracy_surer_half"] > halves["accuracy_other_half"]
    quantiles = sd_quantiles(rng.uniform(0, 1, 1000))
    assert quantiles["0.5"] == pytest.approx(0.5, abs=0.05)
    assert share_unknown(np.array([0.1, 2.0, 2.0, 0.2]), quantiles) == 0.5
    assert region_warning(np.array([0.1, 0.2]), quantiles) is None
    assert "leaves the region" in region_warning(np.array([2.0, 2.0, 0.1]), quantiles)


def test_all_figures_are_json_and_page_and_card_show_them(tokenizer):
    parts = [scored_groups(tokenizer, prompts=n, seed=n) for n in (12, 5, 8)]
    figures = trust_figures(*parts, LabelerEvidence(), seed=0)
    json.dumps(figures, allow_nan=False)
    assert figures["accuracy"]["low"] <= figures["accuracy"]["mean"] <= figures["accuracy"]["high"]
    assert figures["ceiling"] is None and figures["accuracy_of_ceiling"] is None
    losses = figures["log_loss"]
    assert losses["of_labels"] <= losses["after"]
    result = {
        "best_step": 3,
        "steps": 5,
        "stopped_early": True,
        "messages": ["<b>odd</b> & told"],
        "train_pairs": 72,
        "validation_pairs": 30,
        "held_out_pairs": 48,
        "temperature": 1.0,
        "score_mean": 0.0,
        "score_std": 1.0,
    }
    page = reward_section(figures, result)
    assert f'<data value="{figures["accuracy"]["mean"]!r}">' in page
    assert "<b>odd</b>" not in page and "&lt;b&gt;odd" in page
    assert page.count("<svg") == 4 and "not known" in page
    about = {"base_model": "some/base", "config": {"full_finetuning": False}}
    card = model_card(result, figures, about)
    assert "some/base" in card and f"{figures['accuracy']['mean']:.1%}" in card
    for title in ("Accuracy by how sure", "Accuracy by prompt length"):
        assert title in card
    for part in figures["by_prompt_length"]:
        assert f"| {part['range']} | {part['accuracy']:.1%} |" in card
    left = figures["length_bias"]["corrected"]
    assert f"| correlation of score and length, after correction | {left:.3f} |" in card
    assert "labelers' screen" not in card, "where nobody knows the places, nothing is said of them"
    assert not figures["worst"] and "No held-out pair stands in the wrong order" in card
    wrong = {
        "prompt": "You are",
        "chosen": " kind",
        "rejected": " rude",
        "probability": 0.9,
        "chosen_score": -1.0,
        "rejected_score": 2.0,
    }
    known = {"correlation": 0.12, "labels": 0.34, "slope": 0.5, "corrected": 0.056}
    odd = {**wrong, "chosen": "``` # `x`\n" + "long " * 90, "rejected": " "}
    card = model_card(result, {**figures, "position_bias": known, "worst": [wrong, odd]}, about)
    assert "| correlation of score and place on the labelers' screen | 0.120 |" in card
    assert (
        "| correlation of score and place on the labelers' screen, after correction | 0.056 |"
        in card
    )
    assert "`''' # 'x' long" in card and "…`" in card and "(empty)" in card
    assert "- `You are`: 90% for `kind`, but the model scores `rude` higher (2.00 to -1.00)" in card
