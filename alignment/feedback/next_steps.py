"""The one next thing to do: for each role in the round, and for one person."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.config import LabellingConfig
from alignment.feedback import blind, run_queue, runs
from alignment.feedback.assignment import RULES, left_for
from alignment.feedback.people import Account
from alignment.feedback.rounds import Round, Step, rounds
from alignment.feedback.runs import Run
from alignment.feedback.store import Store

_START = "Import prompts, then sample completions: that begins the first round."
_AGAIN = "The round is complete. Sample from the current policy to begin the next."
_ENGINEER = {
    "rank": "Labelers are ranking. You can compute the consensus of what is there at any time.",
    "consensus": "Compute the consensus of the rankings, or start the whole round.",
    "reward": "Train the reward model on the consensus.",
    "ppo": "Train the policy against the reward model.",
    "evaluate": "Evaluate the policy against the base.",
    "review": "A reviewer decides now; the evaluation awaits a verdict.",
    "promote": "The verdict is in: promote the policy, or train again.",
}


@dataclass(frozen=True, slots=True)
class Next:
    """The one next thing to do, in a sentence. `step`: of the round, or `compare` for blind pairs; None for nothing."""

    text: str
    step: str | None


def next_steps(store: Store) -> dict[str, str]:
    """Role -> the one next thing to do in the round, in a sentence."""
    done = rounds(store)
    if not done:
        nothing = "Nothing to do yet: no completions have been sampled."
        return {"labeler": nothing, "engineer": _START, "reviewer": _review(store).text}
    return {
        "labeler": "Rank completions: tasks are open."
        if _ranking(done[-1])
        else "Nothing to rank at the moment.",
        "engineer": _engineer(done[-1]).text,
        "reviewer": _review(store).text,
    }


def own_next(store: Store, who: Account, rules: LabellingConfig = RULES) -> Next:
    """What this person does next: their own tasks, verdicts and blind pairs, or the round's next step."""
    done = rounds(store)
    if who.role in ("engineer", "admin"):
        return _engineer(done[-1]) if done else Next(_START, "sample")
    found = _review(store) if who.role == "reviewer" else _rank(store, who, rules, done)
    return found if found.step else _compare(store, who) or found


def awaiting_verdict(store: Store) -> list[Run]:
    """The finished evaluations on which nobody has given a verdict, newest first."""
    found = run_queue.finished(store, "evaluate")
    return [run for run in found if not runs.reviews(store, run.run_id)]


def _engineer(current: Round) -> Next:
    step = current.current
    if step is None:
        return Next(_AGAIN, "sample")
    if step.working:
        return Next(f"{step.title}: its run is {step.detail}.", step.name)
    name = "rank" if step.name == "consensus" and _ranking(current) else step.name
    return Next(_ENGINEER[name], name)


def _ranking(current: Round) -> Step | None:
    """The step of ranking, where it goes on."""
    return next(
        (step for step in current.steps if step.name == "rank" and step.state == "now"), None
    )


def _review(store: Store) -> Next:
    count = len(awaiting_verdict(store))
    if not count:
        return Next("No evaluation awaits a verdict.", None)
    awaits = "evaluation awaits" if count == 1 else "evaluations await"
    return Next(f"{count} {awaits} a verdict.", "review")


def _rank(store: Store, who: Account, rules: LabellingConfig, done: list[Round]) -> Next:
    left = left_for(store, who.labeler_id, rules)
    if left:
        return Next(
            f"Rank completions: {left} {'task is' if left == 1 else 'tasks are'} open.", "rank"
        )
    if not done or (step := done[-1].current) is None:
        return Next("New tasks come with the next round.", None)
    number, ranking = done[-1].number, _ranking(done[-1])
    if ranking:
        return Next(f"Others are still ranking: {ranking.detail} of round {number} are in.", None)
    return Next(f"Round {number} is at the step {step.title}; the next one brings new tasks.", None)


def _compare(store: Store, who: Account) -> Next | None:
    pair = blind.next_pair(store, who.account_id)
    if pair is None:
        return None
    left = pair.total - pair.number + 1
    pairs = "pair of texts waits" if left == 1 else "pairs of texts wait"
    return Next(f"{left} {pairs} to be compared, side by side and blind.", "compare")
