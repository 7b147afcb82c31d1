"""Rounds: sample, rank, consensus, reward model, PPO, review, promote, and again; where the present one stands.

A round begins with a run of `sample` that made tasks; what ran later belongs to it until the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alignment.feedback import run_queue, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store

STAGES = ("consensus", "reward", "ppo", "evaluate")
_TITLES = {
    "consensus": "Consensus",
    "reward": "Reward model",
    "ppo": "PPO",
    "evaluate": "Evaluation",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a round. `state`: done, now (under way, or the next to do) or waiting."""

    name: str
    title: str
    state: str
    detail: str
    run_id: str | None = None

    @property
    def working(self) -> bool:
        """Whether its run is at work, or waits for its turn."""
        return self.detail in ("queued", *run_queue.ACTIVE)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95% interval, where it has one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """A round with its steps and what came out. What has not been measured is None.

    `alpha`: Krippendorff's, of the labelers; `agreement`: share of their ordered pairs that go with the consensus.
    """

    number: int
    started: str
    steps: tuple[Step, ...]
    alpha: Figure | None
    agreement: Figure | None
    toxicity_before: Figure | None
    toxicity_after: Figure | None
    verdict: str | None

    @property
    def current(self) -> Step | None:
        """The step whose run is at work, or else the furthest one to do next; None where the round is complete.

        Ranking may go on while later steps are done.
        """
        nows = [step for step in self.steps if step.state == "now"]
        working = (step for step in nows if step.working)
        return next(working, nows[-1] if nows else None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rounds(store: Store) -> list[Round]:
    """All rounds, oldest first; none before completions were sampled."""
    gone = run_queue.deleted(store)
    everything = [run for run in reversed(runs.runs(store)) if run.run_id not in gone]
    starts = [i for i, run in enumerate(everything) if run.stage == "sample" and _ended(run)]
    ranked = _ranked(store)
    result = []
    for number, start in enumerate(starts, start=1):
        last = number == len(starts)
        end = len(everything) if last else starts[number]
        result.append(_round(store, number, everything[start:end], ranked, last))
    return result


def _ended(run: Run) -> bool:
    return run.status == "finished"


def _ranked(store: Store) -> dict[str, tuple[int, int]]:
    """Sample run -> rankings that its tasks have, and rankings that they want."""
    rows = store.rows(
        "SELECT t.run_id, sum(t.overlap) AS wanted, sum(min(t.overlap, (SELECT count(*) FROM standing_rankings r "
        "WHERE r.task_id = t.task_id))) AS got FROM tasks t WHERE t.run_id IS NOT NULL GROUP BY t.run_id"
    )
    return {row["run_id"]: (row["got"], row["wanted"]) for row in rows}


def _round(
    store: Store,
    number: int,
    members: Sequence[Run],
    ranked: dict[str, tuple[int, int]],
    last: bool,
) -> Round:
    sample = members[0]
    got, wanted = ranked.get(sample.run_id, (0, 0))
    newest = {stage: _newest(members, stage) for stage in STAGES}
    judged = newest["evaluate"]
    reviews = [] if judged is None else runs.reviews(store, judged.run_id)
    verdict = reviews[-1].verdict if reviews else None
    policy = newest["ppo"]
    promoted = policy is not None and any(
        mark.kind in run_queue.PROMOTIONS for mark in run_queue.marks(store, policy.run_id)
    )
    completions = sample.metrics.get("completions", 0)
    parts = [
        ("sample", "Sample", True, f"{completions} completions", sample.run_id),
        ("rank", "Rank", wanted > 0 and got >= wanted, f"{got} of {wanted} rankings", None),
        *(
            (stage, _TITLES[stage], found is not None, _said(found), found and found.run_id)
            for stage, found in newest.items()
        ),
        ("review", "Review", verdict is not None, verdict or "", judged and judged.run_id),
        (
            "promote",
            "Promote",
            promoted,
            "current policy" if promoted else "",
            policy and policy.run_id,
        ),
    ]
    return Round(
        number,
        sample.started,
        _with_states(parts, members, last),
        _figure(newest["consensus"], "krippendorff_alpha", "krippendorff_low", "krippendorff_high"),
        _figure(newest["consensus"], "agreement_with_consensus"),
        _figure(judged, "toxicity_before"),
        _figure(judged, "toxicity_after"),
        verdict,
    )


def _with_states(
    parts: Sequence[tuple[str, str, bool, str, str | None]], members: Sequence[Run], last: bool
) -> tuple[Step, ...]:
    """Steps with their states: the first that is not done is the next to do; a stage at work is `now` as well.

    What comes after a step that was left out (consensus before all rankings are in) shows that it is done with.
    """
    active = {run.stage: run for run in members if run.status in ("queued", *run_queue.ACTIVE)}
    furthest = max((i for i, part in enumerate(parts) if part[2]), default=-1)
    steps, found = [], False
    for place, (name, title, done, detail, run_id) in enumerate(parts):
        if name in active:
            run = active[name]
            steps.append(Step(name, title, "now", run.status, run.run_id))
            found = True
        elif done:
            steps.append(Step(name, title, "done", detail, run_id))
        else:
            now = last and not found and place > furthest - (name == "rank") * len(parts)
            steps.append(Step(name, title, "now" if now else "waiting", detail, run_id))
            found = found or (now and name != "rank")
    return tuple(steps)


def _newest(members: Sequence[Run], stage: str) -> Run | None:
    return next((r for r in reversed(members) if r.stage == stage and _ended(r)), None)


def _said(run: Run | None) -> str:
    """The figure of a step that says most."""
    if run is None:
        return ""
    figures = {
        "consensus": ("usable_pairs", "{:.0f} pairs"),
        "reward": ("accuracy", "accuracy {:.2f}"),
        "ppo": ("kl", "KL {:.2f}"),
        "evaluate": ("toxicity_reduction", "toxicity {:.0%} lower"),
    }
    key, words = figures[run.stage]
    value = run.metrics.get(key)
    return words.format(value) if isinstance(value, int | float) else ""


def _figure(run: Run | None, key: str, low: str = "", high: str = "") -> Figure | None:
    """A figure of a run's record: a number (its interval under `low` and `high`), or mean, low and high together."""
    found = {} if run is None else run.metrics
    value = found.get(key)
    parts = (
        value
        if isinstance(value, dict)
        else {"mean": value, "low": found.get(low), "high": found.get(high)}
    )
    mean, *interval = (parts.get(name) for name in ("mean", "low", "high"))
    if not isinstance(mean, int | float):
        return None
    return Figure(
        float(mean), *(float(v) if isinstance(v, int | float) else None for v in interval)
    )
