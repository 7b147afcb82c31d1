"""Where a round stands, and who does what next."""

import pytest

from alignment.feedback import blind, people, run_queue, runs
from alignment.feedback.blind import Pair
from alignment.feedback.next_steps import awaiting_verdict, next_steps, own_next
from alignment.feedback.people import Account, Labeler
from alignment.feedback.rounds import Figure, rounds
from alignment.feedback.run_queue import Mark
from alignment.feedback.runs import Review, Run
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt, Ranking


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "feedback.db", create=True)
    opened.add_prompts([Prompt("p", "Say something.")])
    people.add_labelers(opened, [Labeler("ann", "Ann", False), Labeler("bob", "Bob", False)])
    yield opened
    opened.close()


def add_run(store, stage, number=1, status="finished", **metrics):
    run = Run(
        f"{stage}-{number}", stage, {}, status, metrics=metrics, folder=f"/w/{stage}-{number}"
    )
    runs.save_run(store, run)
    return run.run_id


def sampled(store, number=1):
    run_id = add_run(store, "sample", number, completions=2)
    drawn = [Completion(f"{c}{number}", "p", f"text {c}{number}") for c in "ab"]
    [task] = store.add_tasks(drawn, 2, run_id=run_id)
    return task


def rank(store, task, name):
    a, b = task.completion_ids
    store.add_rankings([Ranking("p", name, {a: 1, b: 2})], {"p": task.task_id})


def states(store):
    return {step.name: step.state for step in rounds(store)[-1].steps}


def test_before_the_first_round_the_engineer_samples(store):
    assert rounds(store) == []
    assert "sample completions" in next_steps(store)["engineer"]


def test_a_round_goes_step_by_step_to_the_next(store):
    task = sampled(store)
    rank(store, task, "ann")
    assert (states(store)["rank"], states(store)["consensus"]) == ("now", "now")
    assert next_steps(store)["labeler"].startswith("Rank")
    rank(store, task, "bob")
    assert (states(store)["rank"], states(store)["consensus"]) == ("done", "now")
    assert next_steps(store)["labeler"].startswith("Nothing")
    alpha = {"krippendorff_alpha": 0.7, "krippendorff_low": 0.6, "krippendorff_high": 0.8}
    add_run(store, "consensus", agreement_with_consensus=0.8, **alpha)
    assert next_steps(store)["engineer"].startswith("Train the reward model")
    add_run(store, "reward", status="running")
    assert states(store)["reward"] == "now"
    assert next_steps(store)["engineer"] == "Reward model: its run is running."
    add_run(store, "reward")
    add_run(store, "ppo", kl=1.0)
    add_run(
        store,
        "evaluate",
        toxicity_before={"mean": 0.6, "low": 0.5, "high": 0.7},
        toxicity_after={"mean": 0.1},
    )
    assert states(store)["review"] == "now"
    assert next_steps(store)["reviewer"] == "1 evaluation awaits a verdict."
    runs.add_review(store, Review("evaluate-1", "eve", "accept", ""))
    assert (states(store)["review"], states(store)["promote"]) == ("done", "now")
    run_queue.add_mark(store, Mark("ppo-1", "promote", "", "eve"))
    assert set(states(store).values()) == {"done"}
    assert "begin the next" in next_steps(store)["engineer"]
    first = rounds(store)[0]
    assert first.agreement == Figure(0.8)
    assert first.alpha == Figure(0.7, 0.6, 0.8)
    assert first.toxicity_before == Figure(0.6, 0.5, 0.7)
    assert (first.toxicity_after, first.verdict) == (Figure(0.1), "accept")
    sampled(store, 2)
    assert [one.number for one in rounds(store)] == [1, 2]
    assert set(step.state for step in rounds(store)[0].steps) == {"done"}
    assert states(store)["rank"] == "now"


def test_a_deleted_run_is_no_step_done(store):
    sampled(store)
    add_run(store, "consensus")
    assert states(store)["consensus"] == "done"
    run_queue.add_mark(store, Mark("consensus-1", "delete", "", "eve"))
    assert states(store)["consensus"] == "now"


def test_the_engineer_is_told_what_comes_after_a_consensus_of_half_the_rankings(store):
    rank(store, sampled(store), "ann")
    assert next_steps(store)["engineer"].startswith("Labelers are ranking")
    add_run(store, "consensus")
    assert next_steps(store)["engineer"].startswith("Train the reward model")
    add_run(store, "sample", 2, status="running")
    assert next_steps(store)["engineer"] == "Sample: its run is running."


def test_each_person_is_told_their_own_next_thing(store):
    ann, eve = Account("ann", "labeler", "ann"), Account("eve", "reviewer", "eve")
    assert own_next(store, Account("joe", "engineer", "joe")).step == "sample"
    assert "next round" in own_next(store, ann).text
    task = sampled(store)
    assert own_next(store, ann).step == "rank"
    rank(store, task, "ann")
    told = own_next(store, ann)
    assert (told.step, "1 of 2 rankings of round 1 are in" in told.text) == (None, True)
    assert own_next(store, eve).step is None
    add_run(store, "evaluate")
    add_run(store, "evaluate", 2)
    assert own_next(store, eve).text == "2 evaluations await a verdict."
    assert [run.run_id for run in awaiting_verdict(store)] == ["evaluate-2", "evaluate-1"]
    runs.add_review(store, Review("evaluate-1", "eve", "reject", ""))
    run_queue.add_mark(store, Mark("evaluate-2", "delete", "", "joe"))
    assert awaiting_verdict(store) == []
    pairs = blind.open_round(store, "evaluate-1", "a", "b", [Pair("p", "?", "x", "y")], "joe")
    for person in (ann, eve):
        assert own_next(store, person).step == "compare"
        blind.answer(store, person.account_id, pairs.round_id, "p", "tie")
        assert own_next(store, person).step is None
