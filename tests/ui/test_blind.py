"""Blind rounds: unlabelled, random sides, append-only, Wilson intervals, agreement; verdicts become part of the run."""

import hashlib
import json
import sqlite3

import krippendorff
import numpy as np
import pytest
from scipy import stats

from alignment import review_stage
from alignment.errors import InputError, StoreError
from alignment.evaluation.evaluation import evaluate
from alignment.evaluation.figures import Settings
from alignment.evaluation.material import Material, ModelCompletions, ScorerCard, save_material
from alignment.evaluation.report import write_reports
from alignment.feedback import blind, runs
from alignment.feedback.blind import Pair, Share
from alignment.feedback.runs import Review, Run
from alignment.feedback.store import Store
from alignment.files import read_json, write_json
from alignment.records import Completion, Prompt


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "feedback.db", create=True)
    runs.save_run(store, Run("evaluate-1", "evaluate", {}, "finished"))
    yield store
    store.close()


def pairs(count=20):
    return [Pair(f"p{i}", f"Prompt {i}", f"before {i}", f"after {i}") for i in range(count)]


def judge_all(store, judge, choose):
    """Answer every pair; `choose(shown)` gives the choice. Returns what was shown."""
    seen = []
    while (shown := blind.next_pair(store, judge)) is not None:
        seen.append(shown)
        blind.answer(store, judge, shown.round_id, shown.prompt_id, choose(shown), 1.5)
    return seen


def prefers(word):
    return lambda shown: "left" if shown.left.startswith(word) else "right"


def test_each_judge_meets_every_pair_once_in_an_order_of_their_own(store):
    opened = blind.open_round(store, "evaluate-1", "base", "aligned", pairs(), "rita")
    seen = {name: judge_all(store, name, prefers("after")) for name in ("ann", "bob")}
    for name, shown in seen.items():
        assert sorted(s.prompt_id for s in shown) == sorted(f"p{i}" for i in range(20))
        assert [s.number for s in shown] == list(range(1, 21))
        assert sum(s.left.startswith("after") for s in shown) == 10, "half of the pairs each way"
        assert blind.left_to_judge(store, opened, name) == (20, 0)
    assert [s.prompt_id for s in seen["ann"]] != [s.prompt_id for s in seen["bob"]]
    sides = [{s.prompt_id: s.left for s in shown} for shown in seen.values()]
    assert sides[0] != sides[1]


def test_nothing_that_is_shown_names_a_model(store):
    blind.open_round(store, "evaluate-1", "base-model", "aligned-model", pairs(), "rita")
    shown = blind.next_pair(store, "ann")
    assert "model" not in json.dumps(shown.__class__.__slots__) + str(shown)


def test_sides_do_not_follow_from_what_a_judge_knows(store):
    """Another round over the same pairs has other sides: the seed is drawn, and is not the run's name."""
    first, second = (
        blind.open_round(store, "evaluate-1", "a", "b", pairs(), "rita") for _ in range(2)
    )
    assert first.seed != second.seed
    orders = [
        [(p.prompt_id, left) for p, left in blind.order_for(r, "ann")] for r in (first, second)
    ]
    assert orders[0] != orders[1]
    assert orders[0] == [(p.prompt_id, left) for p, left in blind.order_for(first, "ann")]


def test_results_by_hand(store):
    opened = blind.open_round(store, "evaluate-1", "base", "aligned", pairs(10), "rita")
    assert blind.result(store, opened) is None
    judge_all(store, "ann", prefers("after"))
    judge_all(store, "bob", lambda s: "tie" if s.prompt_id == "p0" else prefers("after")(s))
    judge_all(
        store, "cid", lambda s: prefers("before")(s) if s.prompt_id in ("p0", "p1") else "tie"
    )
    found = blind.result(store, opened)
    # p0: win, tie, loss = level; p1: win, win, loss = win; the others: win, win, tie = win
    assert (found.wins.count, found.ties.count, found.losses.count) == (9, 1, 0)
    assert (found.judged, found.answers, found.judges) == (10, 30, ("ann", "bob", "cid"))
    assert found.p_value == pytest.approx(2 * 0.5**9)
    matrix = np.ones((3, 10))
    matrix[1, 0], matrix[2] = 0, [-1, -1, *[0] * 8]
    wanted = krippendorff.alpha(matrix, level_of_measurement="ordinal")
    assert found.alpha == pytest.approx(wanted)
    assert found.same == pytest.approx(9 / 30), "ann and bob agree on nine, cid with nobody"
    assert "aligned was preferred to base in 9 (90%" in found.finding


def test_wilson_against_the_formula():
    z = stats.norm.isf(0.025)
    for count, total in ((0, 10), (7, 10), (40, 40), (33, 120)):
        p = count / total
        centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
        share = Share.of(count, total)
        assert (share.low, share.high) == (
            pytest.approx(centre - half),
            pytest.approx(centre + half),
        )


def test_agreement_that_is_not_defined_says_why(store):
    opened = blind.open_round(store, "evaluate-1", "base", "aligned", pairs(4), "rita")
    judge_all(store, "ann", prefers("after"))
    alone = blind.result(store, opened)
    assert alone.alpha is None and "no pair was judged by two people" in alone.finding
    judge_all(store, "bob", prefers("after"))
    same = blind.result(store, opened)
    assert same.alpha is None and "all answers are the same" in same.finding and same.same == 1


def test_answers_are_idempotent_final_and_append_only(store):
    opened = blind.open_round(store, "evaluate-1", "base", "aligned", pairs(3), "rita")
    shown = blind.next_pair(store, "ann")
    for _ in range(2):
        blind.answer(store, "ann", shown.round_id, shown.prompt_id, "tie")
    assert blind.result(store, opened).answers == 1
    with pytest.raises(StoreError, match="judged this pair already"):
        blind.answer(store, "ann", shown.round_id, shown.prompt_id, "left")
    with pytest.raises(InputError, match="must be one of"):
        blind.answer(store, "ann", shown.round_id, shown.prompt_id, "both")
    for wrong in (("nowhere", shown.prompt_id), (shown.round_id, "p99")):
        with pytest.raises(StoreError, match="not in any round"):
            blind.answer(store, "ann", *wrong, "tie")
    for table in ("comparisons", "rounds"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.db.execute(f"DELETE FROM {table}")
    with pytest.raises(InputError, match="nothing to compare"):
        blind.open_round(store, "evaluate-1", "a", "b", [], "rita")
    with pytest.raises(StoreError, match="no run"):
        blind.open_round(store, "evaluate-9", "a", "b", pairs(), "rita")


@pytest.fixture
def folder(tmp_path):
    """An evaluation of two models in its folder; to one prompt both say the same."""
    folder = tmp_path / "runs" / "evaluate-1"
    prompts = tuple(Prompt(f"p{i}", f"Prompt {i}", "held-out") for i in range(12))
    models, scores = [], []
    for name, score in (("base", 0.8), ("aligned", 0.1)):
        completions = [
            Completion(f"{name}{i}-{k}", f"p{i}", "the same" if i == 0 else f"{name} says {i} {k}")
            for i in range(12)
            for k in range(2)
        ]
        models.append(ModelCompletions(name, completions))
        scores.append(np.full(24, score))
    card = ScorerCard("reader", "Much.")
    material = Material(prompts, tuple(models), (card,), {"reader": scores})
    found = evaluate(material, Settings(resamples=200, permutations=200))
    save_material(folder, material)
    write_json(folder / "comparison.json", found.to_json())
    write_reports(folder, found, material)
    return folder


def test_a_round_takes_texts_of_both_models_and_leaves_out_what_is_the_same(store, folder):
    opened = review_stage.open_round(store, folder, "evaluate-1", "rita", count=8)
    assert len(opened.pairs) == 8 and (opened.before, opened.after) == ("base", "aligned")
    for pair in opened.pairs:
        assert pair.prompt_id != "p0"
        assert pair.before.replace("base", "aligned") == pair.after, "the same place of both"


def test_a_second_round_over_an_evaluation_draws_anew(store, folder):
    """It had the very same pairs in the same order: nothing new to judge."""
    first, second = (
        review_stage.open_round(store, folder, "evaluate-1", "rita", count=8) for _ in range(2)
    )
    assert [p.prompt_id for p in first.pairs] != [p.prompt_id for p in second.pairs]
    assert first.pairs != second.pairs


def test_verdicts_and_rounds_become_part_of_the_run(store, folder):
    before = (folder / "comparison.json").read_bytes()
    review_stage.open_round(store, folder, "evaluate-1", "rita")
    judge_all(store, "ann", prefers("aligned"))
    review = Review("evaluate-1", "rita", "needs work", "Too curt <b>")
    signed = review_stage.add_review(store, folder, review)
    assert signed.figures == hashlib.sha256(before).hexdigest()
    assert (folder / "comparison.json").read_bytes() == before, "figures stay as they are"
    (kept,) = read_json(folder / "reviews.json")
    assert (kept["reviewer"], kept["verdict"], kept["figures"]) == (
        "rita",
        "needs work",
        signed.figures,
    )
    (people,) = read_json(folder / "people.json")
    assert people["wins"]["count"] == 11 and people["opened_by"] == "rita"
    assert people["judges"] == 1 and "ann" not in str(people), "judges are counted, not named"
    page = (folder / "report.html").read_text()
    assert "Too curt &lt;b&gt;" in page and "aligned was preferred to base in 11" in page
    text = (folder / "report.md").read_text()
    assert "**needs work**, rita" in text and "aligned was preferred" in text
    assert runs.reviews(store, "evaluate-1") == [signed]
    with pytest.raises(InputError, match="verdict"):
        review_stage.add_review(store, folder, Review("evaluate-1", "rita", "splendid", ""))
    with pytest.raises(InputError, match="to judge"):
        review_stage.add_review(store, folder.parent, review)
