"""From arrays to what people read: the records of pairs and prompts, and the summary with its sentence.

A `table` holds people's rankings only; a gold order settles its prompt but is nobody's vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignment.feedback import agreement
from alignment.feedback.consensus_orders import LEVEL, Orders
from alignment.feedback.consensus_records import (
    ConsensusSummary,
    LabelerReliability,
    LazyRecords,
    PairConsensus,
    PromptConsensus,
)
from alignment.feedback.pair_votes import PairVotes
from alignment.feedback.ranking_table import RankingTable
from alignment.records import Votes

SURE_OF_AGREEMENT = 2.33  # standard normal quantile of 99%
CAMPS = 2 / 3  # so many reversed labelers for each upright one, and nobody can tell who is which


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """Agreement per prompt, (P,) each; NaN where a figure is not defined."""

    kendall_w: np.ndarray
    tau_b: np.ndarray
    rankings: np.ndarray
    same: np.ndarray  # bool: all rankings rank the same completions
    none_acceptable: np.ndarray  # rankings that hold that no completion is acceptable


@dataclass(frozen=True, slots=True)
class Evidence:
    """How strongly the rankings speak for a shared order. `gain`: log evidence of the factor model over one without a
    shared order, in nats. `beyond_chance`: agreement in standard errors of random rankings. `gold`: is any known."""

    gain: float
    beyond_chance: float
    gold: bool


def prompt_figures(table: RankingTable, votes: PairVotes) -> PromptFigures:
    """The figures of each prompt of the table, from people's rankings."""
    ranks, starts = table.ranks, table.starts[:-1]
    ranked = ranks > 0
    every = np.logical_and.reduceat(ranked, starts, axis=0)
    same = (np.logical_or.reduceat(ranked, starts, axis=0) == every).all(axis=1)
    counts = np.diff(np.append(starts, len(ranks)))
    return PromptFigures(
        agreement.kendall_w(ranks, starts),
        agreement.mean_tau_b(votes, starts),
        counts,
        same,
        np.add.reduceat(table.none_acceptable.astype(np.intp), starts),
    )


def pair_records(
    table: RankingTable, votes: PairVotes, orders: Orders, linked: np.ndarray
) -> LazyRecords[PairConsensus]:
    """Every pair that is `linked` (P, N), by prompt."""

    def prepare():
        prompt, pair = np.nonzero(linked)
        confidence, probability = (
            orders.confidence[prompt, pair],
            orders.probability()[prompt, pair],
        )
        level = np.abs(confidence - 0.5) <= LEVEL
        confidence = np.where(level, 0.5, confidence)
        gap = orders.score[prompt, votes.first[pair]] - orders.score[prompt, votes.second[pair]]
        forward = np.where(level, gap >= 0, confidence > 0.5)
        wins, losses, ties = (
            count[prompt, pair] for count in (votes.wins, votes.losses, votes.ties)
        )

        def make(index: int) -> PairConsensus:
            p, n = int(prompt[index]), int(pair[index])
            names = table.completion_ids[p]
            first, second = names[votes.first[n]], names[votes.second[n]]
            for_first, for_second, tie = int(wins[index]), int(losses[index]), int(ties[index])
            sure, likely = float(confidence[index]), float(probability[index])
            if forward[index]:
                counted = Votes(for_first, for_second, tie)
                return PairConsensus(table.prompt_ids[p], first, second, sure, likely, counted)
            counted = Votes(for_second, for_first, tie)
            return PairConsensus(table.prompt_ids[p], second, first, 1 - sure, 1 - likely, counted)

        return make

    return LazyRecords(int(linked.sum()), prepare)


def prompt_records(
    table: RankingTable,
    votes: PairVotes,
    orders: Orders,
    linked: np.ndarray,
    ranks: np.ndarray,
    figures: PromptFigures,
    settled: np.ndarray,
) -> LazyRecords[PromptConsensus]:
    """One record per prompt. `ranks` (P, K): the consensus ranks. `settled` (P,): a known order decides."""

    def prepare():
        share = agreement.disagreement_shares(votes)
        # numpy takes the least of a few long rows faster than of many short ones
        away = np.where(linked, np.abs(orders.confidence - 0.5), np.inf)
        sure = 0.5 + np.ascontiguousarray(away.T).min(axis=0)

        def make(p: int) -> PromptConsensus:
            undefined = {}
            if not np.isfinite(figures.kendall_w[p]):
                undefined["kendall_w"] = _why_no_w(int(figures.rankings[p]), bool(figures.same[p]))
            if not np.isfinite(figures.tau_b[p]):
                undefined["mean_tau_b"] = _why_no_tau(int(figures.rankings[p]))
            names = table.completion_ids[p]
            return PromptConsensus(
                prompt_id=table.prompt_ids[p],
                ranks={name: int(ranks[p, k]) for k, name in enumerate(names)},
                kendall_w=_number(figures.kendall_w[p]),
                mean_tau_b=_number(figures.tau_b[p]),
                min_confidence=_number(sure[p]),
                disagreement_share=float(share[p]),
                rankings=int(figures.rankings[p]),
                none_acceptable=int(figures.none_acceptable[p]),
                settled=bool(settled[p]),
                undefined=undefined,
            )

        return make

    return LazyRecords(len(table.prompt_ids), prepare)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _why_no_w(rankings: int, same: bool) -> str:
    if rankings < 2:
        return "Agreement needs two rankings of the prompt, and it has one."
    if not same:
        return "The labelers ranked different completions of this prompt, for which Kendall's W is not defined."
    return "Every labeler ranked all completions level, so there is no order to agree on."


def _why_no_tau(rankings: int) -> str:
    if rankings < 2:
        return "Agreement needs two rankings of the prompt, and it has one."
    return "No two labelers both put the same completions of this prompt in an order."


def summarise(
    table: RankingTable,
    votes: PairVotes,
    labelers: list[LabelerReliability],
    shares: np.ndarray,
    pairs: int,
    evidence: Evidence,
    figures: PromptFigures,
    settled: np.ndarray,
    counts: np.ndarray,
    seed: int,
) -> ConsensusSummary:
    """The figures over all prompts, and the sentence that goes with them. `counts` (P, K, V): how many people gave each
    rank to each completion. `shares` (L,): agreement of each labeler
    with the consensus, NaN where it has none. `settled` (P,): a known order decides."""
    width = table.ranks.shape[1]
    alpha, interval = agreement.krippendorff_alpha(counts.reshape(-1, counts.shape[2]), width, seed)
    pairwise = agreement.pairwise_agreement(votes)
    flagged = np.array([labeler.flagged for labeler in labelers])
    overall, trusted = _mean(shares), _mean(shares[~flagged])
    components = agreement.labeler_components(table.prompt, table.labeler)
    reliable, message = signal(votes, labelers, evidence, components)
    return ConsensusSummary(
        prompts=len(table.prompt_ids),
        rankings=len(table.prompt),
        labelers=len(labelers),
        pairs=pairs,
        krippendorff_alpha=alpha,
        krippendorff_low=interval[0] if interval else None,
        krippendorff_high=interval[1] if interval else None,
        pairwise_agreement=pairwise,
        agreement_with_consensus=overall,
        trusted_agreement_with_consensus=trusted,
        flagged_labelers=int(flagged.sum()),
        components=components,
        settled_prompts=int(settled.sum()),
        unacceptable_prompts=int((2 * figures.none_acceptable >= figures.rankings).sum()),
        reliable_signal=reliable,
        message=message,
        undefined=_why_undefined(alpha, interval, pairwise, overall, trusted),
    )


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _why_undefined(
    alpha: float | None,
    interval: tuple[float, float] | None,
    pairwise: float | None,
    overall: float | None,
    trusted: float | None,
) -> dict[str, str]:
    """A reason for each figure that is None."""
    reasons = {}
    if alpha is None:
        reasons["krippendorff_alpha"] = (
            "No completion was ranked by two labelers, or all ranks are the same."
        )
    if interval is None:
        few = "There are too few prompts that several labelers ranked for an interval."
        reasons["krippendorff_low"] = reasons["krippendorff_high"] = reasons.get(
            "krippendorff_alpha", few
        )
    if pairwise is None:
        reasons["pairwise_agreement"] = "No two labelers ranked the same pair of completions."
    if overall is None:
        reasons["agreement_with_consensus"] = (
            "No labeler put a pair in an order where the consensus has one."
        )
    if trusted is None:
        everybody = "Every labeler who put a pair in an order is flagged."
        reasons["trusted_agreement_with_consensus"] = reasons.get(
            "agreement_with_consensus", everybody
        )
    return reasons


NO_ORDER = (
    "No reliable signal: every ranking puts all completions level, so there is nothing to learn an order from. Ask the "
    "labelers to say which completion is better wherever they can."
)
NO_OVERLAP = (
    "No reliable signal yet: no prompt was ranked by two labelers, so nobody's answers can be checked against "
    "another's. Let at least two, better three, labelers rank the same prompts."
)
TOO_LITTLE = (
    "No reliable signal yet: the labelers agree more often than not, but on too few rankings to rule out chance. "
    "Collect more rankings."
)
NO_AGREEMENT = (
    "No reliable signal: the labelers contradict each other about as often as they agree, so the consensus order is "
    "little better than chance. Discuss the guidelines with them, add gold prompts, and collect more rankings before "
    "training on these pairs."
)
TWO_CAMPS = (
    "No reliable signal: the labelers are split into camps that rank the opposite way, and nothing here tells which "
    "one reads the scale rightly. Add gold prompts with a known order, or ask both camps which rank is best."
)
NOBODY = (
    "No reliable signal: every labeler is flagged, most likely for following the place on the screen rather than the "
    "text. Look at the labelers' evidence, talk to them, and collect new rankings."
)


def signal(
    votes: PairVotes, labelers: list[LabelerReliability], evidence: Evidence, components: int
) -> tuple[bool, str]:
    """Is there an order that labelers share? With the sentence that says so."""
    if not (votes.wins + votes.losses).any():
        return False, NO_ORDER
    if not (votes.wins + votes.losses > 1).any() and not evidence.gold:
        return False, NO_OVERLAP
    if evidence.gain <= 0 and evidence.beyond_chance < SURE_OF_AGREEMENT:
        return False, TOO_LITTLE if evidence.beyond_chance > 1 else NO_AGREEMENT
    upright = sum(labeler.low > 0 for labeler in labelers)
    turned = sum(labeler.high < 0 for labeler in labelers)
    if not evidence.gold and turned and turned >= CAMPS * upright:
        return False, TWO_CAMPS
    if labelers and all(labeler.flagged for labeler in labelers):
        return False, NOBODY
    return True, " ".join([_who_agrees(labelers), *_note_on_groups(components)])


def _who_agrees(labelers: list[LabelerReliability]) -> str:
    flagged = sum(labeler.flagged for labeler in labelers)
    if not flagged:
        return "The labelers share an order, and nobody stands out as unreliable."
    others = (
        "the other one does not, and is" if flagged == 1 else f"the other {flagged} do not, and are"
    )
    return f"{len(labelers) - flagged} of {len(labelers)} labelers share an order; {others} weighted accordingly."


def _note_on_groups(components: int) -> list[str]:
    if components == 1:
        return []
    return [
        f"They fall into {components} groups that have no prompt in common, so no group can be checked against "
        "another; give some prompts to labelers of different groups."
    ]
