"""Blind rounds: people compare completions before and after side by side, without knowing which is which.

A round holds one pair of texts for each of its prompts. Every judge meets the pairs in an order of their own; the side
that a model stands on is drawn for each judge, half of the pairs each way, from the round's secret seed. Rounds and
answers are append-only.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import krippendorff
import numpy as np
from scipy.stats import binomtest

from alignment.errors import InputError, StoreError
from alignment.feedback.store import Store, now

CHOICES = ("left", "tie", "right")
WIN, TIE, LOSS = "win", "tie", "loss"
_SIGN = {WIN: 1, TIE: 0, LOSS: -1}


@dataclass(frozen=True, slots=True)
class Pair:
    """The texts of two models to one prompt; `prompt` as one readable text."""

    prompt_id: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Round:
    """A round of an evaluation run. `before`, `after`: names of the models. `seed` decides orders and sides."""

    round_id: str
    run_id: str
    before: str
    after: str
    pairs: tuple[Pair, ...]
    opened_by: str
    seed: int
    created: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair as a judge sees it. `number` of `total` counts from 1."""

    round_id: str
    prompt_id: str
    prompt: str
    left: str
    right: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Share:
    """A count of pairs, its share of all, and the Wilson 95% interval of the share (Wilson 1927)."""

    count: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int) -> Share:
        interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
        return cls(count, count / total, float(interval.low), float(interval.high))


@dataclass(frozen=True, slots=True)
class Result:
    """What a round found so far; each pair counts once, as most of its judges saw it (level votes are a tie).

    `p_value`: two-sided sign test of wins against losses. `alpha`: Krippendorff's alpha among judges (ordinal: loss,
    tie, win), None with the reason in `alpha_reason`. `same`: share of equal answers among two judges of a pair.
    """

    round_id: str
    before: str
    after: str
    pairs: int
    judged: int
    judges: tuple[str, ...]
    answers: int
    wins: Share
    ties: Share
    losses: Share
    p_value: float
    alpha: float | None
    alpha_reason: str
    same: float | None

    @property
    def finding(self) -> str:
        """The result as a sentence or two."""

        def told(share: Share) -> str:
            return f"{share.count} ({share.share:.0%}, 95% interval {share.low:.0%} to {share.high:.0%})"

        if len(self.judges) < 2 or self.alpha is None:
            agree = f"Agreement among judges: {self.alpha_reason}."
        else:
            agree = f"Agreement among judges: Krippendorff's alpha {self.alpha:.2f}, equal answers {self.same:.0%}."
        people = "1 person" if len(self.judges) == 1 else f"{len(self.judges)} people"
        return (
            f"Of {self.judged} of {self.pairs} pairs that {people} judged side by side and blind, {self.after} was "
            f"preferred to {self.before} in {told(self.wins)}, {self.before} in {told(self.losses)}, neither in "
            f"{told(self.ties)}; sign test p = {self.p_value:.3f}. {agree}"
        )

    def to_json(self) -> dict[str, Any]:
        """The figures and the finding; the judges are counted, not named."""
        return {**asdict(self), "judges": len(self.judges), "finding": self.finding}


def open_round(
    store: Store, run_id: str, before: str, after: str, pairs: Sequence[Pair], opened_by: str
) -> Round:
    """Append a round. Raises `InputError` without pairs; `StoreError` where the run is not in the store."""
    if not pairs:
        raise InputError(
            "There is nothing to compare: both models say the same to every prompt, or there are no prompts."
        )
    if not store.rows("SELECT 1 FROM runs WHERE run_id = ?", [run_id]):
        raise StoreError(f"There is no run {run_id!r} in this workspace.")
    made = Round(
        f"round-{secrets.token_hex(6)}",
        run_id,
        before,
        after,
        tuple(pairs),
        opened_by,
        secrets.randbits(31),
        now(),
    )
    with store.writing() as db:
        db.table("rounds").insert(
            {
                "round_id": made.round_id,
                "run_id": run_id,
                "before": before,
                "after": after,
                "pairs": json.dumps([[p.prompt_id, p.prompt, p.before, p.after] for p in pairs]),
                "opened_by": opened_by,
                "seed": made.seed,
                "created": made.created,
            }
        )
    return made


def rounds(store: Store, run_id: str | None = None) -> list[Round]:
    """All rounds, newest first, or those of one run."""
    where, params = ("WHERE run_id = ?", [run_id]) if run_id else ("", [])
    return [
        _round(row)
        for row in store.rows(f"SELECT * FROM rounds {where} ORDER BY rowid DESC", params)
    ]


def _round(row: dict[str, Any]) -> Round:
    pairs = tuple(Pair(*values) for values in json.loads(row["pairs"]))
    return Round(
        row["round_id"],
        row["run_id"],
        row["before"],
        row["after"],
        pairs,
        row["opened_by"],
        row["seed"],
        row["created"],
    )


def order_for(chosen: Round, judge: str) -> list[tuple[Pair, bool]]:
    """The pairs in the judge's own order, each with whether `before` stands on the left; half of them each way."""
    drawn = random.Random(f"{chosen.seed}/{judge}")
    pairs = list(chosen.pairs)
    drawn.shuffle(pairs)
    sides = [i % 2 == 0 for i in range(len(pairs))]
    drawn.shuffle(sides)
    return list(zip(pairs, sides, strict=True))


def next_pair(store: Store, judge: str) -> Shown | None:
    """The first pair that the judge has not answered, of the newest round that has one; None where all are answered."""
    for chosen in rounds(store):
        done = _answered(store, chosen.round_id, judge)
        if len(done) == len(chosen.pairs):
            continue
        for pair, before_left in order_for(chosen, judge):
            if pair.prompt_id not in done:
                texts = (pair.before, pair.after) if before_left else (pair.after, pair.before)
                return Shown(
                    chosen.round_id,
                    pair.prompt_id,
                    pair.prompt,
                    *texts,
                    number=len(done) + 1,
                    total=len(chosen.pairs),
                )
    return None


def left_to_judge(store: Store, chosen: Round, judge: str) -> tuple[int, int]:
    """How many pairs of a round the judge has answered, and how many are left."""
    done = len(_answered(store, chosen.round_id, judge))
    return done, len(chosen.pairs) - done


def _answered(store: Store, round_id: str, judge: str) -> set[str]:
    """The prompts of a round whose pairs the judge has answered."""
    rows = store.rows(
        "SELECT prompt_id FROM comparisons WHERE round_id = ? AND judge = ?", [round_id, judge]
    )
    return {row["prompt_id"] for row in rows}


def answer(
    store: Store,
    judge: str,
    round_id: str,
    prompt_id: str,
    choice: str,
    seconds: float | None = None,
) -> None:
    """Append an answer. Sending the same one again is one answer.

    Raises `InputError` on an unknown choice; `StoreError` on an unknown pair, or where the judge has said otherwise.
    """
    if choice not in CHOICES:
        raise InputError(f"The choice is {choice!r}; it must be one of {', '.join(CHOICES)}.")
    rows = store.rows("SELECT * FROM rounds WHERE round_id = ?", [round_id])
    sides = {p.prompt_id: left for row in rows for p, left in order_for(_round(row), judge)}
    if prompt_id not in sides:
        raise StoreError("This pair is not in any round of this workspace. Load the page again.")
    before_left = sides[prompt_id]
    after_side = "right" if before_left else "left"
    outcome = TIE if choice == "tie" else WIN if choice == after_side else LOSS
    with store.writing() as db:
        known = list(
            db.query(
                "SELECT choice FROM comparisons WHERE round_id = ? AND prompt_id = ? AND judge = ?",
                [round_id, prompt_id, judge],
            )
        )
        if known:
            if known[0]["choice"] != choice:
                raise StoreError("You have judged this pair already. Answers are kept as they are.")
            return
        db.table("comparisons").insert(
            {
                "round_id": round_id,
                "prompt_id": prompt_id,
                "judge": judge,
                "before_left": int(before_left),
                "choice": choice,
                "outcome": outcome,
                "seconds": seconds,
                "created": now(),
            }
        )


def results(store: Store, run_id: str) -> list[dict[str, Any]]:
    """The results of a run's rounds that somebody has answered, newest first, with who opened each, and when."""
    found = [(chosen, result(store, chosen)) for chosen in rounds(store, run_id)]
    return [
        {"opened_by": chosen.opened_by, "created": chosen.created, **one.to_json()}
        for chosen, one in found
        if one is not None
    ]


def result(store: Store, chosen: Round) -> Result | None:
    """What the round found so far; None before the first answer."""
    rows = store.rows("SELECT * FROM comparisons WHERE round_id = ?", [chosen.round_id])
    if not rows:
        return None
    judges = sorted({row["judge"] for row in rows})
    place = {pair.prompt_id: i for i, pair in enumerate(chosen.pairs)}
    matrix = np.full((len(judges), len(chosen.pairs)), np.nan)
    for row in rows:
        matrix[judges.index(row["judge"]), place[row["prompt_id"]]] = _SIGN[row["outcome"]]
    judged = ~np.isnan(matrix).all(0)
    majority = np.sign(np.nansum(matrix[:, judged], axis=0))
    counts = [int((majority == sign).sum()) for sign in (1, 0, -1)]
    wins, ties, losses = (Share.of(count, int(judged.sum())) for count in counts)
    decided = counts[0] + counts[2]
    p_value = float(binomtest(counts[0], decided).pvalue) if decided else 1.0
    alpha, reason = agreement_alpha(matrix)
    return Result(
        chosen.round_id,
        chosen.before,
        chosen.after,
        len(chosen.pairs),
        int(judged.sum()),
        tuple(judges),
        len(rows),
        wins,
        ties,
        losses,
        p_value,
        alpha,
        reason,
        _equal_answers(matrix),
    )


def agreement_alpha(matrix: np.ndarray) -> tuple[float | None, str]:
    """Krippendorff's alpha of [judges, pairs] with NaN where not judged, or None and why it is not defined."""
    shared = (~np.isnan(matrix)).sum(0) >= 2
    if not shared.any():
        return None, "no pair was judged by two people"
    values = matrix[:, shared]
    if len(np.unique(values[~np.isnan(values)])) < 2:
        return None, "not defined, since all answers are the same"
    return float(krippendorff.alpha(values, level_of_measurement="ordinal")), ""


def _equal_answers(matrix: np.ndarray) -> float | None:
    """Share of equal answers among all two judges of a pair; None where no pair has two."""
    equal = total = 0
    for column in matrix.T:
        given = column[~np.isnan(column)]
        total += len(given) * (len(given) - 1) // 2
        _, counts = np.unique(given, return_counts=True)
        equal += int((counts * (counts - 1) // 2).sum())
    return equal / total if total else None
