"""Overlap of n-grams: self-BLEU among a model's own completions, ROUGE against references."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from alignment.errors import InputError
from alignment.evaluation.fluency import words

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_ORDERS = 4


def self_bleu(texts: Sequence[str]) -> float:
    """Mean sentence BLEU-4 of each text against all the others (Zhu et al. 2018, arXiv:1802.01886), in [0, 1].

    High where the texts say the same things. As sacrebleu's sentence BLEU with effective order, exponential smoothing
    and the closest reference length; words and punctuation marks count, in lower case. Each text is held against every
    other, without sampling: for an n-gram only its two highest counts matter, so the work grows with the amount of
    text and not with its square. Texts without a word are left out; 0 where fewer than two are left.
    """
    tokens = [t for t in (words(text) for text in texts) if t]
    if len(tokens) < 2:
        return 0.0
    lengths = sorted(len(t) for t in tokens)
    counts = [[_ngram_counts(t, n) for t in tokens] for n in range(1, _ORDERS + 1)]
    highest = [_two_highest(order) for order in counts]
    return fmean(
        _sentence_bleu(len(t), [order[i] for order in counts], highest, lengths)
        for i, t in enumerate(tokens)
    )


def _ngram_counts(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _two_highest(counts: Sequence[Counter]) -> dict[tuple[str, ...], tuple[int, int]]:
    """For each n-gram its highest and second highest count in a text."""
    best: dict[tuple[str, ...], tuple[int, int]] = {}
    for counter in counts:
        for gram, count in counter.items():
            first, second = best.get(gram, (0, 0))
            if count > first:
                best[gram] = (count, first)
            elif count > second:
                best[gram] = (first, count)
    return best


def _sentence_bleu(
    length: int, counts: Sequence[Counter], highest: Sequence[Mapping], lengths: Sequence[int]
) -> float:
    """BLEU of one text whose n-gram counts are `counts`, against all others."""
    log_sum, orders, smooth = 0.0, 0, 1.0
    for own, best in zip(counts, highest, strict=True):
        total = own.total()
        if total == 0:
            break
        matches = sum(_clipped(count, best[gram]) for gram, count in own.items())
        if matches == 0 and orders == 0:
            return 0.0  # not a single word in common: nothing to smooth
        if matches == 0:
            smooth *= 2
            matches = 1 / smooth
        log_sum += math.log(matches / total)
        orders += 1
    closest = _closest(length, lengths)
    penalty = math.exp(1 - closest / length) if length < closest else 1.0
    return penalty * math.exp(log_sum / orders)


def _clipped(count: int, highest: tuple[int, int]) -> int:
    """The count of an n-gram, but no more than its highest count in another text."""
    first, second = (
        highest  # where this text itself holds the highest count, the others' is the second
    )
    return min(count, second if count == first else first)


def _closest(length: int, lengths: Sequence[int]) -> int:
    """The length nearest to `length` among the other texts; the shorter of two equally near. `lengths` is sorted."""
    at = bisect_left(lengths, length)
    if at + 1 < len(lengths) and lengths[at + 1] == length:
        return length
    near = [*lengths[max(at - 1, 0) : at], *lengths[at + 1 : at + 2]]
    return min(near, key=lambda other: (abs(other - length), other))


def rouge(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """ROUGE F-scores of each text against the best of its references (Lin 2004), by Google's `rouge-score`.

    Kinds `rouge1`, `rouge2`, `rougeL`, `rougeLsum` -> scores in [0, 1], shape [n]; Porter stemming, and for rougeLsum
    one sentence a line. Raises `InputError` where a text has no reference.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_KINDS), use_stemmer=True)
    found: dict[str, list[float]] = {kind: [] for kind in ROUGE_KINDS}
    for text, wanted in zip(texts, references, strict=True):
        if not wanted:
            raise InputError("ROUGE needs at least one reference for each text.")
        scores = scorer.score_multi(list(wanted), text)
        for kind in ROUGE_KINDS:
            found[kind].append(scores[kind].fmeasure)
    return {kind: np.array(values) for kind, values in found.items()}
