"""Real rankings by several people: what each method says of a held-out person's answers.

PandaLM: three annotators prefer one of two answers, or neither. Ruddit: crowd workers pick the most and the least
offensive of four comments; a worker is known only within one assignment of four or five such choices. ConvAbuse: named
annotators rate conversation turns on an ordinal scale.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import krippendorff
import numpy as np

from alignment.feedback import agreement
from alignment.feedback.ranking_table import RankingTable
from benchmarks.consensus_simulated import Rows

Method = Callable[[RankingTable], np.ndarray]

FAULTS = (None, "reversed", "random")
CERTAIN = 1e-3  # probabilities are clipped to this distance from 0 and 1 before the log loss
BATCHES = 4  # pseudo-labelers per PandaLM annotator, a quarter of whom is spoilt


def table_from(prompt: np.ndarray, labeler: np.ndarray, ranks: np.ndarray) -> RankingTable:
    """Arrays as a table; prompts numbered from 0 without gaps."""
    order = np.lexsort((labeler, prompt))
    names, labeler = np.unique(labeler[order], return_inverse=True)
    prompts = int(prompt.max()) + 1
    return RankingTable(
        [str(p) for p in range(prompts)],
        [str(name) for name in names],
        [[str(k) for k in range(ranks.shape[1])]] * prompts,
        prompt[order],
        labeler,
        ranks[order].astype(np.int8),
        np.full(ranks.shape, -1, np.int16),
        np.zeros(len(ranks), bool),
    )


class HeldOut:
    """Each method's answers on held-out ordered votes, as sums per prompt and round (a seed's draw of the fault)."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts
        self.right: dict[
            str, list[np.ndarray]
        ] = {}  # method -> rounds of (P,) pairs ordered rightly
        self.loss: dict[str, list[np.ndarray]] = {}  # method -> rounds of (P,) sums of log loss
        self.votes: dict[str, list[np.ndarray]] = {}  # method -> rounds of (P,) ordered votes

    def add(self, method: str, probability: np.ndarray, vote: np.ndarray) -> None:
        """One round: (P, N) probabilities that first is preferred, and the held-out person's votes 1, 0 or -1."""
        voted = vote != 0
        p = np.where(vote > 0, probability, 1 - probability)
        level = np.abs(p - 0.5) < 1e-9
        right = np.where(level, 0.5, p > 0.5)
        loss = -np.log(np.where(level, 0.5, np.clip(p, CERTAIN, 1 - CERTAIN)))
        self.right.setdefault(method, []).append((right * voted).sum(axis=1))
        self.loss.setdefault(method, []).append((loss * voted).sum(axis=1))
        self.votes.setdefault(method, []).append(voted.sum(axis=1))

    def rows(self, draws: int = 1000) -> Rows:
        """Accuracy and log loss by method. "auto" has its differences to each other method besides, with 95% bootstrap
        intervals over prompts and rounds (both resampled, for the same prompts come again in every round)."""
        rounds = len(self.votes["auto"])
        rng = np.random.default_rng(0)
        weight = rng.multinomial(rounds, np.full(rounds, 1 / rounds), draws)
        times = rng.multinomial(self.prompts, np.full(self.prompts, 1 / self.prompts), draws)

        def resampled(sums: list[np.ndarray]) -> np.ndarray:
            """(1 + draws,): the total, then the totals of the resamples."""
            table = np.stack(sums).astype(float)
            return np.r_[table.sum(), np.einsum("dr,rp,dp->d", weight, table, times, optimize=True)]

        votes = resampled(self.votes["auto"])
        accuracy = {name: resampled(sums) / votes for name, sums in self.right.items()}
        loss = {name: resampled(sums) / votes for name, sums in self.loss.items()}
        result: Rows = {
            name: {
                "accuracy": float(accuracy[name][0]),
                "log_loss": float(loss[name][0]),
                "rounds": rounds,
            }
            for name in self.right
        }
        for key, figures in (("accuracy beside", accuracy), ("log_loss beside", loss)):
            result["auto"][key] = {
                name: _interval(figures["auto"] - values) for name, values in figures.items()
            }
        return result


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def pandalm(data: Path, methods: dict[str, Method], fault: str | None, seeds: range) -> Rows:
    """Each of the three annotators is held out in turn, for every seed."""
    with gzip.open(data / "pandalm" / "testset-v1.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    answers = np.array([[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows])
    ranks = np.array([[1, 1], [1, 2], [2, 1]])[answers]  # (999, 3, 2)
    held_out = HeldOut(len(rows))
    for seed in seeds if fault else range(1):
        rng = np.random.default_rng(seed)
        for held in range(3):
            train = [n for n in range(3) if n != held]
            given = np.concatenate([ranks[:, n] for n in train])
            prompt = np.tile(np.arange(len(rows)), 2)
            labeler = np.repeat(np.arange(2), len(rows))
            if fault:
                batch = np.concatenate(
                    [rng.permutation(np.arange(len(rows)) % BATCHES) for _ in train]
                )
                labeler = labeler * BATCHES + batch
                given = spoil(given, labeler, 2 * BATCHES // 4, fault, rng)
            table = table_from(prompt, labeler, given)
            vote = np.sign(ranks[:, held, 1] - ranks[:, held, 0])[:, None]
            for name, method in methods.items():
                held_out.add(name, method(table), vote)
    return held_out.rows()


def ruddit(
    data: Path, methods: dict[str, Method], fault: str | None, seeds: range, prompts: int
) -> Rows:
    """For every seed, one judgement of each of the first `prompts` four-tuples is held out."""
    prompt, labeler, ranks = read_ruddit(data)
    keep = prompt < prompts
    prompt, labeler, ranks = prompt[keep], labeler[keep], ranks[keep]
    first, second = np.triu_indices(4, 1)
    held_out = HeldOut(int(prompt.max()) + 1)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(prompt))
        held = shuffled[
            np.unique(prompt[shuffled], return_index=True)[1]
        ]  # one row per prompt, in order
        train = np.setdiff1d(np.arange(len(prompt)), held)
        given = ranks
        if fault:
            given = spoil(ranks, labeler, len(np.unique(labeler)) // 4, fault, rng)
        table = table_from(prompt[train], labeler[train], given[train])
        vote = np.sign(ranks[held][:, second] - ranks[held][:, first])
        for name, method in methods.items():
            held_out.add(name, method(table), vote)
    return held_out.rows()


def read_ruddit(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R,) prompt, (R,) assignment, (R, 4) ranks: best 1, the two between tie, worst 3."""
    with gzip.open(
        data / "ruddit" / "individual_annotations.csv.gz", "rt", encoding="utf-8"
    ) as file:
        rows = list(csv.reader(file))[1:]
    number: dict[tuple[str, ...], int] = {}
    seen: set[tuple[str, ...]] = set()
    assignment, prompt, labeler, ranks = 0, [], [], []
    for *items, best, worst in rows:
        four = tuple(items)
        if four in seen:  # the next worker begins the same sheet
            assignment, seen = assignment + 1, set()
        seen.add(four)
        if len(set(four)) == 4:
            prompt.append(number.setdefault(four, len(number)))
            labeler.append(assignment)
            ranks.append([1 if item == best else 3 if item == worst else 2 for item in four])
    return np.array(prompt), np.array(labeler), np.array(ranks)


def spoil(
    ranks: np.ndarray, labeler: np.ndarray, count: int, fault: str, rng: np.random.Generator
) -> np.ndarray:
    """The ranks with those of `count` labelers reversed or shuffled."""
    bad = np.isin(labeler, rng.choice(np.unique(labeler), count, replace=False))
    if fault == "reversed":
        worst = ranks.max(axis=1, keepdims=True)
        return np.where(bad[:, None], worst + 1 - ranks, ranks)
    return np.where(bad[:, None], rng.permuted(_untied(ranks, rng), axis=1), ranks)


def _untied(ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clicker on two answers picks one; on four, best and worst."""
    if ranks.shape[1] == 2:
        return np.tile([1, 2], (len(ranks), 1))
    return ranks


def convabuse_alpha(data: Path) -> dict[str, float]:
    """Ordinal alpha of the training turns: by this package's formula, and by the `krippendorff` package."""
    with gzip.open(data / "convabuse" / "train.json.gz", "rt", encoding="utf-8") as file:
        turns = list(json.load(file).values())
    names = sorted({name for turn in turns for name in turn["annotators"].split(",")})
    ratings = np.full((len(names), len(turns)), np.nan)
    for column, turn in enumerate(turns):
        pairs = zip(turn["annotators"].split(","), turn["annotations"].split(","), strict=True)
        for name, rating in pairs:
            ratings[names.index(name), column] = float(rating)
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = np.stack([(ratings == value).sum(axis=0) for value in values], axis=1)
    ours, interval = agreement.krippendorff_alpha(np.tile(counts, (1, 1)), 1, seed=0)
    formula = float(agreement.ordinal_alpha(agreement.coincidences(counts, 1, 1))[0])
    theirs = float(krippendorff.alpha(ratings, level_of_measurement="ordinal"))
    assert ours is not None
    low, high = interval or (ours, ours)
    return {
        "turns": len(turns),
        "annotators": len(names),
        "ours": formula,
        "package": theirs,
        "low": low,
        "high": high,
    }
