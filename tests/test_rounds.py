"""Where a round stands, and who does what next."""

import pytest

from alignment.feedback import people, run_queue, runs
from alignment.feedback.people import Labeler
from alignment.feedback.rounds import next_steps, rounds
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
    add_run(store, "consensus", agreement_with_consensus=0.8)
    add_run(store, "reward", status="running")
    assert states(store)["reward"] == "now"
    add_run(store, "reward")
    add_run(store, "ppo", kl=1.0)
    add_run(store, "evaluate", toxicity_before={"mean": 0.6}, toxicity_after={"mean": 0.1})
    assert states(store)["review"] == "now"
    assert "awaits" in next_steps(store)["reviewer"]
    runs.add_review(store, Review("evaluate-1", "eve", "accept", ""))
    assert (states(store)["review"], states(store)["promote"]) == ("done", "now")
    run_queue.add_mark(store, Mark("ppo-1", "promote", "", "eve"))
    assert set(states(store).values()) == {"done"}
    assert "begin the next" in next_steps(store)["engineer"]
    first = rounds(store)[0]
    assert (first.agreement, first.toxicity_before, first.toxicity_after, first.verdict) == (
        0.8,
        0.6,
        0.1,
        "accept",
    )
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
