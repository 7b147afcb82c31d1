"""The consensus of several labelers, some of whom misread the task: one function, several methods, one output.

`fit_consensus` turns rankings into arrays, combines them by the method asked for, and reports pairs, prompts and
labelers. The labelers are always judged by the factor model, whatever the method: it alone tells noise, reversal and
position bias apart. docs/concepts/consensus.md explains the model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from alignment.errors import InputError, nearest
from alignment.feedback import agreement
from alignment.feedback.consensus_orders import (
    Orders,
    borda_orders,
    coin_orders,
    consensus_ranks,
    factor_orders,
    labeler_agreement,
    majority_orders,
)
from alignment.feedback.consensus_records import (
    ConsensusSummary,
    LabelerReliability,
    PairConsensus,
    PromptConsensus,
)
from alignment.feedback.consensus_report import (
    Evidence,
    PromptFigures,
    pair_records,
    prompt_figures,
    prompt_records,
    summarise,
)
from alignment.feedback.copies import copied_row, split_copies
from alignment.feedback.dawid_skene import OneCoinFit, fit_one_coin
from alignment.feedback.factor_fit import FactorFit, continue_fit, fit_factor_model, pick
from alignment.feedback.factor_model import Scores, null_bound
from alignment.feedback.flags import labeler_table
from alignment.feedback.pair_votes import PairVotes, linked_pairs, spliced_votes, votes_of
from alignment.feedback.ranking_table import (
    ADJUDICATOR,
    GOLD_LABELER,
    RankingTable,
    centred_places,
    check_known,
    known_labelers,
    normal_scores,
    people_only,
    table_of,
)
from alignment.feedback.settlement import KnownOrders, known_rankings, settle, settled_prompts
from alignment.feedback.table_change import TableChange, with_ranking
from alignment.records import Ranking

METHODS = ("auto", "factor", "majority", "borda", "dawid-skene")
REFIT_ROWS = 1500  # up to so many rankings, an update fits anew: it is as quick
UPDATE_ROWS = 150_000  # rankings times EM steps that an update may take


@dataclass(frozen=True, slots=True)
class Workings:
    """The arrays behind a consensus, from which an update goes on."""

    table: RankingTable  # people's rankings and gold
    scores: Scores
    votes: PairVotes
    factor: FactorFit
    coin: OneCoinFit | None
    figures: PromptFigures
    counts: np.ndarray  # (P, K, V) how many people gave each rank to each completion
    copies: dict[str, str]
    seed: int


@dataclass(frozen=True)
class Consensus:
    """What the labelers together say. `method` is the one that was used, never "auto"."""

    method: str
    pairs: Sequence[PairConsensus]
    prompts: Sequence[PromptConsensus]
    labelers: list[LabelerReliability]
    summary: ConsensusSummary
    workings: Workings | None = field(default=None, repr=False, compare=False)
    ranks: np.ndarray | None = field(
        default=None, repr=False, compare=False
    )  # (P, K), 0 is unranked
    votes: PairVotes | None = field(default=None, repr=False, compare=False)  # people's

    def prompt(self, prompt_id: str) -> PromptConsensus | None:
        """The consensus on one prompt; None where nobody ranked it."""
        if self.workings is None:
            return next((p for p in self.prompts if p.prompt_id == prompt_id), None)
        known = self.workings.table.prompt_ids
        place = bisect_left(known, prompt_id)
        return self.prompts[place] if known[place : place + 1] == [prompt_id] else None

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "pairs": [pair.to_json() for pair in self.pairs],
            "prompts": [prompt.to_json() for prompt in self.prompts],
            "labelers": [labeler.to_json() for labeler in self.labelers],
            "summary": self.summary.to_json(),
        }


def fit_consensus(
    rankings: Sequence[Ranking],
    completion_ids: Mapping[str, Sequence[str]] | None = None,
    *,
    method: str = "auto",
    gold: KnownOrders | None = None,
    adjudicated: KnownOrders | None = None,
    duplicates: Literal["count", "once"] = "count",
    seed: int = 0,
) -> Consensus:
    """The consensus of `rankings`, superseded ones left out beforehand.

    `completion_ids`: prompt id -> its completions; where given, rankings of others are refused. `gold`: prompt id ->
    completion id -> rank (or several such orders, of different completions), orders known to be true, which anchor
    signs and reliabilities and settle their prompts. `adjudicated`: likewise, but they settle their prompts only.
    `duplicates`: "once" lets labelers who gave exactly the same answers to the same prompts count as one. Several
    rankings of the same completions by one labeler share the weight of one. `seed`: of the bootstrap interval.
    Rankings that hold no information give a consensus whose summary says so.

    Raises `InputError` where there are no rankings, where an option is not known, where a ranking or gold order names a
    completion that is not known, or where gold orders contradict each other.
    """
    if method not in METHODS:
        raise InputError(
            f"There is no consensus method {method!r}{nearest(method, list(METHODS))}. "
            f"Choose one of {', '.join(METHODS)}."
        )
    if duplicates not in ("count", "once"):
        raise InputError(f"duplicates is {duplicates!r}; it must be 'count' or 'once'.")
    copies: dict[str, str] = {}
    if duplicates == "once":
        rankings, copies = split_copies(rankings)
    if completion_ids is not None:
        check_known(rankings, completion_ids)
    known = known_rankings(rankings, gold or {}, adjudicated or {}, completion_ids)
    table = table_of([*rankings, *known])
    return consensus_of(table, method, copies=copies, seed=seed)


def consensus_of(
    table: RankingTable,
    method: str = "auto",
    *,
    copies: dict[str, str] | None = None,
    seed: int = 0,
) -> Consensus:
    """The consensus of rankings that are arrays already; see `fit_consensus`."""
    if method == "auto":
        method = automatic_method(table)
    scores = scores_of(table)
    votes = votes_of(table.ranks, table.starts[:-1])
    coin = _coin(table, scores, votes, None) if method == "dawid-skene" else None
    factor = fit_factor_model(scores)
    human = people_only(table)
    human_votes = votes if human is table else votes_of(human.ranks, human.starts[:-1])
    figures = prompt_figures(human, human_votes)
    counts = rank_counts(human)
    return _report(
        method, Workings(table, scores, votes, factor, coin, figures, counts, copies or {}, seed)
    )


def rank_counts(human: RankingTable) -> np.ndarray:
    """(P, K, V) how many people gave each of the ranks 1..V to each completion."""
    counts = agreement.value_counts(human.ranks, human.starts[:-1])
    return counts.reshape(len(human.prompt_ids), human.ranks.shape[1], -1)


def automatic_method(table: RankingTable) -> str:
    """`dawid-skene` where all prompts have two completions, else `factor`.

    With two completions the one-coin model orders as many pairs rightly and knows what a tie is. With more, the factor
    model is at least level with it even at three rankings per labeler, and far better calibrated (benchmarks).
    """
    return "dawid-skene" if table.ranks.shape[1] == 2 else "factor"


def scores_of(table: RankingTable) -> Scores:
    """The table as the factor model takes it. Repeated rankings of the same completions by one labeler share one
    weight; those of other completions of the prompt, for another task, are no repeats."""
    repeats = np.ones(len(table.prompt))
    if ((np.diff(table.prompt) == 0) & (np.diff(table.labeler) == 0)).any():
        subset = (table.ranks > 0) @ (1 << np.arange(table.ranks.shape[1]))
        rows = np.stack([table.prompt, table.labeler, subset], axis=1)
        _, group, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        repeats = counts[group].astype(float)
    # An adjudication settles its prompt afterwards and is no evidence here.
    heard = np.array([name != ADJUDICATOR for name in table.labeler_ids])[table.labeler]
    return Scores(
        table.prompt,
        table.labeler,
        normal_scores(table.ranks) * heard[:, None],
        centred_places(table.places, table.ranks),
        table.ranks > 0,
        heard / repeats,
        len(table.labeler_ids),
        known_labelers(table),
    )


def _coin(
    table: RankingTable, scores: Scores, votes: PairVotes, before: OneCoinFit | None
) -> OneCoinFit:
    return fit_one_coin(votes, table.prompt, table.labeler, scores.weight, scores.anchored, before)


def update_consensus(
    consensus: Consensus,
    ranking: Ranking,
    completion_ids: Mapping[str, Sequence[str]] | None = None,
    *,
    repeat: bool = False,
) -> Consensus:
    """`consensus` with one more ranking, in a fraction of the time of a new fit: EM goes on from where it stood.

    An earlier ranking of the same completions by the same labeler is superseded, unless this one is a `repeat`, which
    shares its weight. Prompt, labeler and completions may be new. Raises `InputError` where `completion_ids` is given
    and does not hold the ranked completions, or where `consensus` was read from files rather than fitted.
    """
    if consensus.workings is None:
        raise InputError(
            "This consensus was not fitted here, so it cannot be updated. Compute it anew from the rankings."
        )
    if completion_ids is not None:
        check_known([ranking], completion_ids)
    before = consensus.workings
    table, change = with_ranking(before.table, ranking, repeat=repeat)
    if len(table.prompt) <= REFIT_ROWS:
        return consensus_of(table, consensus.method, copies=before.copies, seed=before.seed)
    fresh = scores_of(change.part)
    scores = replace(
        before.scores,
        prompt=table.prompt,
        labeler=table.labeler,
        z=change.spliced(before.scores.z, fresh.z),
        x=change.spliced(before.scores.x, fresh.x),
        ranked=table.ranks > 0,
        weight=change.spliced(before.scores.weight, fresh.weight),
        labelers=len(table.labeler_ids),
        anchored=known_labelers(table),
    )
    same_width = change.part.ranks.shape[1] == table.ranks.shape[1] == before.table.ranks.shape[1]
    if same_width:
        fresh_votes = votes_of(change.part.ranks, np.zeros(1, np.intp))
        votes = spliced_votes(before.votes, fresh_votes, change.spliced, change.with_prompt)
    else:
        votes = votes_of(table.ranks, table.starts[:-1])
    warm = pick(before.factor.labelers, change.labelers, before.factor.hyper)
    factor = continue_fit(
        scores, warm, before.factor, most=max(2, UPDATE_ROWS // len(table.prompt))
    )
    coin = _coin(table, scores, votes, before.coin) if before.coin else None
    part = people_only(change.part)
    new = prompt_figures(part, votes_of(part.ranks, np.zeros(1, np.intp)))
    figures = PromptFigures(
        *(
            change.with_prompt(getattr(before.figures, f), getattr(new, f))
            for f in PromptFigures.__slots__
        )
    )
    counts = _spliced_counts(before.counts, table, change, same_width)
    return _report(
        consensus.method,
        Workings(table, scores, votes, factor, coin, figures, counts, before.copies, before.seed),
    )


def _spliced_counts(
    before: np.ndarray, table: RankingTable, change: TableChange, same_width: bool
) -> np.ndarray:
    """The rank counts with those of the changed prompt counted anew, or all of them where their shape changes."""
    fresh = rank_counts(people_only(change.part))
    missing = before.shape[2] - fresh.shape[2]
    if not same_width or missing < 0:
        return rank_counts(people_only(table))
    return change.with_prompt(before, np.pad(fresh, ((0, 0), (0, 0), (0, missing))))


def orders_of(method: str, w: Workings) -> Orders:
    """A method's answer from the arrays of a fit, whatever method they were fitted for, known orders in force."""
    if method == "factor":
        orders = factor_orders(w.factor, w.votes)
    elif method == "dawid-skene":
        coin = w.coin or _coin(w.table, w.scores, w.votes, None)
        orders = coin_orders(coin, w.votes, w.table.ranks.shape[1])
    else:
        orders = (majority_orders if method == "majority" else borda_orders)(w.table, w.votes)
    return settle(orders, w.table, w.votes)


def _report(method: str, w: Workings) -> Consensus:
    """The records of all kinds from a method's arrays."""
    orders = orders_of(method, w)
    ranks = consensus_ranks(w.table, w.votes, orders)
    linked = linked_pairs(w.votes, w.table.ranks.shape[1])
    human = people_only(w.table)
    votes = w.votes if human is w.table else votes_of(human.ranks, human.starts[:-1])
    people = np.flatnonzero(~w.scores.anchored)
    shares = labeler_agreement(human, votes, ranks)[people]
    labelers = labeler_table(
        [w.table.labeler_ids[i] for i in people],
        pick(w.factor.labelers, people, w.factor.hyper),
        np.bincount(human.labeler, minlength=w.scores.labelers)[people],
        shares,
        w.factor.hyper.mu,
        bool((human.places >= 0).any()),
    )
    layout = w.factor.layout
    evidence = Evidence(
        w.factor.bound - null_bound(layout),
        agreement.beyond_chance(w.scores.z, layout.degrees, layout.starts),
        GOLD_LABELER in w.table.labeler_ids,
    )
    pairs = pair_records(human, votes, orders, linked)
    settled = settled_prompts(w.table)
    prompts = prompt_records(human, votes, orders, linked, ranks, w.figures, settled)
    summary = summarise(
        human, votes, labelers, shares, len(pairs), evidence, w.figures, settled, w.counts, w.seed
    )
    if w.copies:
        labelers = sorted(
            [*labelers, *copied_rows(labelers, w.copies)], key=lambda row: row.labeler_id
        )
        flagged = sum(row.flagged for row in labelers)
        summary = replace(summary, labelers=len(labelers), flagged_labelers=flagged)
    return Consensus(method, pairs, prompts, labelers, summary, w, ranks, votes)


def copied_rows(
    labelers: list[LabelerReliability], copies: Mapping[str, str]
) -> list[LabelerReliability]:
    """Rows for labelers who were left out as copies of another."""
    by_name = {row.labeler_id: row for row in labelers}
    return [copied_row(by_name[original], copy) for copy, original in copies.items()]
