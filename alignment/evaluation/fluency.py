"""What alignment may cost: fluency under the base model, diversity, repetition, unfinished completions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import gammaln

from alignment.errors import InputError
from alignment.records import Completion

# Chinese characters and Japanese kana are written without spaces: each counts as a word of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’][^\W{_UNSPACED}]+)*|[^\w\s]")
_LARGEST_EXPONENT = 700.0  # exp of more is not a finite double


def perplexity(negative_log_likelihood: np.ndarray, tokens: np.ndarray) -> float:
    """Corpus perplexity exp(sum nll / sum tokens).

    `negative_log_likelihood`: nats per completion, summed over its tokens, shape [n]. `tokens`: tokens per
    completion, shape [n]. Every token weighs the same, so that short completions do not dominate.
    Raises `InputError` where shapes differ, figures are negative or not finite, or there is no token.
    """
    nll = np.asarray(negative_log_likelihood, dtype=float)
    counts = np.asarray(tokens, dtype=float)
    if nll.ndim != 1 or nll.shape != counts.shape:
        raise InputError(
            f"Perplexity needs one negative log-likelihood and one token count per completion; their shapes are "
            f"{nll.shape} and {counts.shape}."
        )
    if not (np.isfinite(nll).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError(
            "Perplexity needs finite log-likelihoods and token counts of 0 or more. Score the completions again."
        )
    if counts.sum() == 0:
        raise InputError(
            "Perplexity is undefined: the completions hold no token at all. Sample completions that say something."
        )
    exponent = nll.sum() / counts.sum()
    if exponent > _LARGEST_EXPONENT:
        raise InputError(
            f"Perplexity overflows: the mean negative log-likelihood is {exponent:.0f} nats a token. Check that the "
            "log-likelihoods come from the right model and tokenizer."
        )
    return float(np.exp(exponent))


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The runs of n successive words of a text."""
    tokens = words(text)
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, arXiv:1510.03055), in [0, 1].

    It falls as the amount of text grows, since words come back: compare two sets with `matched_distinct_n`.
    0 where no text has n words: nothing was said.
    """
    counts = _counts(texts, n)
    return len(counts) / counts.total() if counts else 0.0


def matched_distinct_n(sets: Sequence[Iterable[str]], n: int) -> tuple[list[float], int]:
    """distinct-n of several sets of texts at an equal number m of n-grams, and m, that of the smallest set.

    Larger sets are rarefied (Hurlbert 1971, doi:10.2307/1934145): of their N n-grams, of which N_g are g, a random
    draw of m without replacement holds

        E = sum_g 1 - C(N - N_g, m) / C(N, m)

    distinct ones, in expectation. That is exact, so no seed and no noise come in, and the smallest set keeps its plain
    distinct-n. Sets without any n-gram are 0 and do not count for m.
    """
    counts = [_counts(texts, n) for texts in sets]
    size = min((c.total() for c in counts if c), default=0)
    return [_rarefied(c, size) for c in counts], size


def repetition(texts: Iterable[str], n: int = 4) -> float:
    """Mean share of a text's n-grams that it has said before (seq-rep-n, Welleck et al. 2019, arXiv:1908.04319).

    In [0, 1]; texts shorter than n words cannot repeat one and are left out. 0 where all are.
    """
    grams = [g for g in (ngrams(text, n) for text in texts) if g]
    return float(np.mean([1 - len(set(g)) / len(g) for g in grams])) if grams else 0.0


def share_unfinished(completions: Sequence[Completion]) -> float:
    """Share of the completions that were cut off at the length limit, in [0, 1]. Needs at least one."""
    return float(np.mean([not completion.finished for completion in completions]))


def share_empty(completions: Sequence[Completion]) -> float:
    """Share of the completions that hold nothing but white space, in [0, 1]. Needs at least one."""
    return float(np.mean([not completion.text.strip() for completion in completions]))


def _counts(texts: Iterable[str], n: int) -> Counter[tuple[str, ...]]:
    if n < 1:
        raise InputError(f"n-grams need n of at least 1, not {n}.")
    return Counter(gram for text in texts for gram in ngrams(text, n))


def _rarefied(counts: Counter[tuple[str, ...]], size: int) -> float:
    """Expected distinct share among `size` n-grams drawn without replacement."""
    total = counts.total()
    if total == 0 or size == 0:
        return 0.0
    times, species = np.unique(list(counts.values()), return_counts=True)
    missed = np.exp(_log_choose(total - times, size) - _log_choose(total, size))
    return float(species @ (1 - missed)) / size


def _log_choose(n: np.ndarray | int, k: int) -> np.ndarray:
    """log C(n, k), minus infinity where k > n."""
    n = np.asarray(n, dtype=float)
    inside = np.maximum(n - k, 0)
    return np.where(n < k, -np.inf, gammaln(n + 1) - gammaln(k + 1) - gammaln(inside + 1))
