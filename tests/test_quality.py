"""What the project manager is told about labelers."""

import json
import random

import pytest
from scipy.stats import binomtest

from alignment import labelling
from alignment.config import LabellingConfig
from alignment.feedback import people, runs
from alignment.feedback.answers import submit
from alignment.feedback.assignment import next_lease, priorities_source
from alignment.feedback.known_orders import KnownOrder, set_known_order
from alignment.feedback.people import Labeler
from alignment.feedback.quality import (
    mean_figure,
    median_figure,
    surplus,
    wilson,
)
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt

RULES = LabellingConfig(
    practice_tasks=0, gold_rate=0.2, repeat_rate=0.2, overlap=3, repeat_distance=3
)


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (3, 7), (50, 50), (120, 300)])
def test_wilson_intervals_are_scipys(successes, count):
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    figure = wilson(successes, count)
    assert (figure.low, figure.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert wilson(0, 0) is None


def test_mean_and_median_intervals_hold_their_value_and_narrow():
    rng = random.Random(0)
    widths = []
    for count in (20, 150, 201, 2000):
        figure = mean_figure([rng.gauss(1, 1) for _ in range(count)])
        assert figure.low < figure.value < figure.high
        widths.append(figure.high - figure.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[1] == pytest.approx(2 * 1.96 / 150**0.5, rel=0.25), "as the normal one"
    figure = median_figure(list(range(101)))
    assert figure.value == 50 and (figure.low, figure.high) == (40, 61)
    assert mean_figure([1.0]) is None and median_figure([]) is None


def test_surplus_is_counted_by_hand():
    ranks = {"a": 1, "b": 2, "c": 2}
    assert surplus(ranks, {"a": 0, "b": 1, "c": 2}) == 1
    assert surplus(ranks, {"a": 1, "b": 0, "c": 2}) == 0
    assert surplus(ranks, {"a": 1, "b": 1, "c": 1}) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Forty prompts whose first completion is best, four of them gold, ranked by four kinds of labelers."""
    store = Store(tmp_path_factory.mktemp("quality") / "feedback.db", create=True)
    names = [f"p{i:02}" for i in range(40)]
    store.add_prompts([Prompt(name, f"Say {name}.") for name in names])
    store.add_tasks([Completion(f"{n}-{i}", n, "x" * (9 - i)) for n in names for i in range(4)], 9)
    for name in names[:6]:
        ranks = {f"{name}-{i}": i + 1 for i in range(4)}
        set_known_order(store, KnownOrder(name, ranks, "gold", "eve"))
    kinds = ("careful", "random", "reversed", "first")
    people.add_labelers(store, [Labeler(kind, kind, simulated=False) for kind in (*kinds, "idle")])
    rng = random.Random(1)
    for kind in kinds:
        while lease := next_lease(store, kind, RULES):
            order = {
                "careful": sorted(lease.order),
                "reversed": sorted(lease.order)[::-1],
                "random": rng.sample(lease.order, 4),
                "first": list(lease.order),
            }[kind]
            submit(store, kind, lease.token, {c: i for i, c in enumerate(order, start=1)})
    yield store
    store.close()


@pytest.fixture(scope="module")
def quality(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = [
        {"prompt_id": f"p{i:02}", "ranks": {f"p{i:02}-{k}": k + 1 for k in range(4)},
         "disagreement_share": i / 100}
        for i in range(40)
    ]  # fmt: skip
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    without = {q.labeler_id: q for q in labelling.quality(store, RULES)}
    assert "concord consensus" in without["careful"].undefined["consensus_agreement"]
    runs.save_run(store, Run("consensus-1", "consensus", {}, "finished", folder=str(folder)))
    return {q.labeler_id: q for q in labelling.quality(store, RULES)}


def test_a_careful_labeler_has_nothing_against_them(quality):
    careful = quality["careful"]
    assert careful.gold_pass.value == 1 and careful.gold_pass.count >= 3
    assert careful.self_consistency.value == 1 and careful.consensus_agreement.value == 1
    assert careful.length_bias.value == 1, "the best ones are the longest here"
    assert [flag for flag in careful.flags if "took less" not in flag] == []


def test_faults_are_flagged_with_their_evidence(quality):
    assert any("consensus" in flag for flag in quality["reversed"].flags)
    assert quality["reversed"].self_consistency.value == 1, "wrong, but consistently"
    assert any("gold" in flag for flag in quality["reversed"].flags)
    first = quality["first"]
    assert first.position_bias.value == 1 and any("shown first" in f for f in first.flags)
    low, high = quality["random"].position_bias.low, quality["random"].position_bias.high
    assert low < 0 < high
    assert quality["random"].consensus_agreement.value == pytest.approx(0.5, abs=0.15)
    assert all("took less than 3 s" in " ".join(quality[k].flags) for k in ("random", "first"))


def test_what_cannot_be_told_is_none_with_its_reason(quality):
    idle = quality["idle"]
    assert idle.gold_pass is None and idle.undefined["gold_pass"] and idle.flags == []
    json.dumps([q.to_json() for q in quality.values()], allow_nan=False)


def test_priorities_come_from_the_latest_run_that_tells_them(store, quality, tmp_path):
    rules = RULES.model_copy(update={"strategy": "disputed"})
    assert labelling.refresh_priorities(store, rules) == "disputed by consensus-1"
    people.add_labelers(store, [Labeler("new", "new", simulated=False)])
    ordinary = next_lease(store, "new", rules.model_copy(update={"gold_rate": 0, "repeat_rate": 0}))
    assert ordinary.task.prompt_id == "p39"
    assert labelling.refresh_priorities(store, RULES) is None
    uncertain = RULES.model_copy(update={"strategy": "uncertain"})
    assert "No finished reward run" in labelling.refresh_priorities(store, uncertain)
    assert priorities_source(store) == "disputed by consensus-1"
    (tmp_path / "uncertainty.jsonl").write_text('{"prompt_id": "p07", "sd": 0.9}\n')
    runs.save_run(store, Run("reward-1", "reward", {}, "finished", folder=str(tmp_path)))
    assert labelling.refresh_priorities(store, uncertain) == "uncertain by reward-1"
    (tmp_path / "uncertainty.jsonl").write_text('{"prompt_id": "p07"}\n')
    runs.save_run(store, Run("reward-2", "reward", {}, "finished", folder=str(tmp_path)))
    assert "cannot be used" in labelling.refresh_priorities(store, uncertain)
