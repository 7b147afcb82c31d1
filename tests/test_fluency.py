"""Perplexity, diversity and repetition against hand-computed values and simulation."""

import numpy as np
import pytest

from alignment.errors import InputError
from alignment.evaluation.fluency import (
    distinct_n,
    matched_distinct_n,
    perplexity,
    repetition,
    share_empty,
    share_unfinished,
    words,
)
from alignment.records import Completion


def test_perplexity_weighs_tokens_not_completions():
    # One completion of 1 token at probability 1/2, one of 3 tokens at 1/8: 2^-(1 + 9)/4 = 2^2.5.
    nll = np.log([2.0, 8.0**3])
    assert perplexity(nll, np.array([1, 3])) == pytest.approx(2**2.5)
    assert perplexity(np.log([7.0]) * 4, np.array([4])) == pytest.approx(7)


@pytest.mark.parametrize(
    ("nll", "tokens", "message"),
    [
        ([1.0, 2.0], [1], "shapes"),
        ([1.0, np.nan], [1, 1], "finite"),
        ([np.inf], [1], "finite"),
        ([0.0], [0], "no token"),
        ([9000.0], [1], "overflows"),
    ],
)
def test_perplexity_refuses_what_has_none(nll, tokens, message):
    with pytest.raises(InputError, match=message):
        perplexity(np.array(nll), np.array(tokens))


def test_words():
    assert words("Don't go, Anna!") == ["don't", "go", ",", "anna", "!"]
    assert words("abc你好") == ["abc", "你", "好"], "Chinese characters are words of their own"
    assert words(" \n ") == []


def test_distinct_n_by_hand():
    texts = ["a b a b", "a b c"]  # unigrams a b a b a b c; bigrams ab ba ab ab bc
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(3 / 5)
    assert distinct_n(["a"], 2) == 0
    with pytest.raises(InputError):
        distinct_n(texts, 0)


def test_matched_distinct_n_is_the_mean_over_random_draws():
    rng = np.random.default_rng(0)
    large = [" ".join(rng.choice(list("abcdefgh"), 10)) for _ in range(8)]
    small = [" ".join(rng.choice(list("abcdefgh"), 10)) for _ in range(3)]
    (before, after), size = matched_distinct_n([large, small], 1)
    grams = np.array([word for text in large for word in words(text)])
    drawn = [len(set(rng.choice(grams, 30, replace=False))) / 30 for _ in range(4000)]
    assert size == 30
    assert after == distinct_n(small, 1), "the smaller set keeps its plain figure"
    assert before == pytest.approx(np.mean(drawn), abs=3 * np.std(drawn) / np.sqrt(4000))


def test_matched_distinct_n_does_not_punish_saying_more():
    """The same source measured on ten times the text: plain distinct-2 falls, the matched one does not."""
    rng = np.random.default_rng(1)
    vocabulary = [f"w{i}" for i in range(40)]
    few, many = (
        [" ".join(rng.choice(vocabulary, 8)) for _ in range(count)] for count in (100, 1000)
    )
    assert distinct_n(many, 2) < 0.5 * distinct_n(few, 2)
    (before, after), _ = matched_distinct_n([few, many], 2)
    assert after == pytest.approx(before, rel=0.05)


def test_matched_distinct_n_sees_collapse_and_silence():
    varied = [f"word{i} word{i + 1}" for i in range(50)]
    (before, after), _ = matched_distinct_n([varied, ["hello there"] * 80], 2)
    assert before == 1
    assert after == pytest.approx(1 / 50)
    assert matched_distinct_n([varied, ["", ""]], 2) == ([1.0, 0.0], 50)
    assert matched_distinct_n([[], []], 2) == ([0.0, 0.0], 0)


def test_repetition_by_hand():
    # "a b a b a b": 4-grams abab baba abab: one of three said before. The short text is left out.
    assert repetition(["a b a b a b", "a b"]) == pytest.approx(1 / 3)
    assert repetition(["a b a b a b", "a b c d e"]) == pytest.approx(1 / 6)
    assert repetition(["a"]) == 0


def test_shares():
    completions = [
        Completion("1", "p", "text", finished=False),
        Completion("2", "p", " \n"),
        Completion("3", "p", "text"),
        Completion("4", "p", "text"),
    ]
    assert share_unfinished(completions) == 0.25
    assert share_empty(completions) == 0.25
