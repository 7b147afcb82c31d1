"""Where a scorer finds a text toxic: the words without which its score falls, or which are toxic by themselves.

Leaving out one word at a time (occlusion) asks nothing of the scorer but scores, so it works for every scorer. Where
two insults stand together, leaving out either changes nothing; so a word that is toxic alone counts too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignment.evaluation.material import Spans
from alignment.evaluation.toxicity import Scorer, score_all

FALL = 0.2  # a word counts when the score falls by this much without it
LONGEST = 120  # words; beyond, only words that are toxic alone are looked for
_WORD = re.compile(r"\S+")


def toxic_spans(
    texts: Sequence[str], scores: Sequence[float], scorer: Scorer, threshold: float
) -> list[Spans]:
    """For each text the character ranges of its toxic words, neighbours joined; texts below the threshold have none."""
    found = [
        [m.span() for m in _WORD.finditer(text)] if score >= threshold else []
        for text, score in zip(texts, scores, strict=True)
    ]
    without = [
        (i, word, text[: word[0]] + text[word[1] :])
        for i, (text, words) in enumerate(zip(texts, found, strict=True))
        for word in (words if 1 < len(words) <= LONGEST else [])
    ]
    alone = [(i, word, texts[i][slice(*word)]) for i, words in enumerate(found) for word in words]
    left, single = score_all(scorer, [[row[2] for row in without], [row[2] for row in alone]])
    chosen: list[set[tuple[int, int]]] = [set() for _ in texts]
    for (i, word, _), score in zip(without, left, strict=True):
        if scores[i] - score >= FALL:
            chosen[i].add(word)
    for (i, word, _), score in zip(alone, single, strict=True):
        if score >= threshold:
            chosen[i].add(word)
    return [_joined(text, sorted(words)) for text, words in zip(texts, chosen, strict=True)]


def _joined(text: str, words: Sequence[tuple[int, int]]) -> Spans:
    """Words with nothing but space between them as one range."""
    joined: list[tuple[int, int]] = []
    for start, end in words:
        if joined and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
