"""Preference pairs for the reward model, from the consensus."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from alignment.errors import InputError
from alignment.feedback.consensus import Consensus
from alignment.feedback.consensus_records import PairConsensus
from alignment.records import PreferencePair, PromptText

logger = logging.getLogger(__name__)


def preference_pairs(
    consensus: Consensus,
    prompts: Mapping[str, PromptText],
    texts: Mapping[str, str],
    *,
    min_confidence: float = 0.5,
    max_pairs_per_prompt: int | None = None,
    max_none_acceptable: float = 1.0,
    keep_ties: bool = False,
) -> list[PreferencePair]:
    """The pairs of `consensus` with their texts, chosen first; of each prompt the surest first.

    `prompts`: prompt id -> prompt. `texts`: completion id -> text. Pairs of equal text, pairs that are level, pairs
    less sure than `min_confidence` and those beyond `max_pairs_per_prompt` are left out; how many is logged. So are
    all pairs of a prompt of which a larger share of the rankings than `max_none_acceptable` holds that nothing is
    acceptable: a reward model learns from the lesser evil, but who trains on `chosen` itself may not want it.
    `keep_ties`: keep level pairs that most of their labelers call equal, which tell a reward model that two scores
    belong together; trainers that read only the order must not see them.
    Raises `InputError` where nothing is left, saying why, and where a prompt or completion has no text.
    """
    if not 0.5 <= min_confidence < 1:
        raise InputError(
            f"min_confidence is {min_confidence}; it must be at least 0.5 (a coin toss) and below 1."
        )
    if max_pairs_per_prompt is not None and max_pairs_per_prompt < 1:
        raise InputError(
            f"max_pairs_per_prompt is {max_pairs_per_prompt}; it must be 1 or more, or left out for all pairs."
        )
    if not 0 <= max_none_acceptable <= 1:
        raise InputError(
            f"max_none_acceptable is {max_none_acceptable}; it must be a share, 0 to 1."
        )
    refused = _unacceptable(consensus, max_none_acceptable)
    kept: dict[str, list[PairConsensus]] = defaultdict(list)
    equal = level = unsure = bad = 0
    for pair in consensus.pairs:
        _check_texts(pair, prompts, texts)
        if pair.prompt_id in refused:
            bad += 1
        elif texts[pair.preferred_id] == texts[pair.other_id]:
            equal += 1
        elif pair.confidence <= 0.5 and not (keep_ties and _called_equal(pair)):
            level += 1
        elif pair.confidence < min_confidence:
            unsure += 1
        else:
            kept[pair.prompt_id].append(pair)
    if not kept:
        raise InputError(_why_none(len(consensus.pairs), equal, level, unsure, bad, min_confidence))
    chosen = [
        pair
        for pairs in kept.values()
        for pair in sorted(pairs, key=lambda pair: -pair.confidence)[:max_pairs_per_prompt]
    ]
    logger.info(
        "%d preference pairs; left out %d of equal text, %d level, %d below the confidence floor, %d of prompts "
        "without an acceptable completion, %d beyond the cap",
        len(chosen),
        equal,
        level,
        unsure,
        bad,
        sum(map(len, kept.values())) - len(chosen),
    )
    return [_with_texts(pair, prompts, texts) for pair in chosen]


def _unacceptable(consensus: Consensus, most: float) -> set[str]:
    """Prompts of which a larger share of the rankings than `most` holds that no completion is acceptable."""
    if most == 1:
        return set()
    return {p.prompt_id for p in consensus.prompts if p.none_acceptable > most * p.rankings}


def _called_equal(pair: PairConsensus) -> bool:
    return pair.votes.tie > pair.votes.chosen + pair.votes.rejected


def _check_texts(
    pair: PairConsensus, prompts: Mapping[str, PromptText], texts: Mapping[str, str]
) -> None:
    if pair.prompt_id not in prompts:
        raise InputError(
            f"Prompt {pair.prompt_id!r} was ranked but has no text. Import it before making pairs."
        )
    for completion_id in (pair.preferred_id, pair.other_id):
        if completion_id not in texts:
            raise InputError(
                f"Completion {completion_id!r} of prompt {pair.prompt_id!r} was ranked but has no text. Import it "
                "before making pairs."
            )


def _with_texts(
    pair: PairConsensus, prompts: Mapping[str, PromptText], texts: Mapping[str, str]
) -> PreferencePair:
    return PreferencePair(
        prompt=prompts[pair.prompt_id],
        chosen=texts[pair.preferred_id],
        rejected=texts[pair.other_id],
        probability=pair.probability,
        confidence=pair.confidence,
        prompt_id=pair.prompt_id,
        chosen_id=pair.preferred_id,
        rejected_id=pair.other_id,
        votes=pair.votes,
    )


def _why_none(
    pairs: int, equal: int, level: int, unsure: int, bad: int, min_confidence: float
) -> str:
    """Why no pair can be used, and what to do."""
    if pairs == 0:
        return (
            "There are no preference pairs: no ranking compares two completions. Collect rankings of at least two "
            "completions per prompt."
        )
    parts = [
        (equal, f"{equal} compare equal texts"),
        (
            level,
            f"{level} are level, the labelers see no difference or contradict each other evenly",
        ),
        (unsure, f"{unsure} are less sure than the confidence floor of {min_confidence}"),
        (bad, f"{bad} are of prompts without an acceptable completion"),
    ]
    reasons = "; ".join(text for count, text in parts if count)
    advice = {
        equal: "Sample with a higher temperature so that completions differ.",
        level: "Collect more rankings, and discuss the guidelines with the labelers.",
        unsure: "Lower the confidence floor (min_confidence) or collect more rankings.",
        bad: "Raise max_none_acceptable, or sample better completions.",
    }[max(equal, level, unsure, bad)]
    return f"No usable preference pairs: of {pairs} pairs, {reasons}. {advice}"


def split_by_prompt(
    pairs: Sequence[PreferencePair], held_out_fraction: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(train, held-out): whole prompts are drawn, so that no prompt is on both sides.

    The held-out side gets `held_out_fraction` of the prompts, rounded, but at least one, and leaves at least one.
    Raises `InputError` where there are fewer than two prompts or the fraction is not between 0 and 1.
    """
    if not 0 < held_out_fraction < 1:
        raise InputError(
            f"held_out_fraction is {held_out_fraction}; it must lie between 0 and 1, both excluded."
        )
    prompt_ids = sorted({pair.prompt_id for pair in pairs})
    if len(prompt_ids) < 2:
        raise InputError(
            f"The pairs come from {len(prompt_ids)} prompt{'' if len(prompt_ids) == 1 else 's'}; holding some out "
            "needs at least two. Rank completions of more prompts."
        )
    count = min(max(1, math.floor(held_out_fraction * len(prompt_ids) + 0.5)), len(prompt_ids) - 1)
    drawn = np.random.default_rng(seed).permutation(len(prompt_ids))[:count]
    held = {prompt_ids[i] for i in drawn}
    train = [pair for pair in pairs if pair.prompt_id not in held]
    return train, [pair for pair in pairs if pair.prompt_id in held]
