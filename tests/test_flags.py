"""Kinds of labelers and the evidence in one sentence."""

import numpy as np
import pytest

from alignment.feedback.consensus_records import KINDS
from alignment.feedback.factor_model import Labelers
from alignment.feedback.flags import evidence_of, labeler_table


def table(b, g=0.0, error=0.05, count=100, agreement=0.9, placed=True):
    """The row of one labeler among typical honest ones of reliability 0.8."""
    one = np.ones(1)
    labelers = Labelers(b * one, g * one, error**2 * one, 0.05**2 * one, 0 * one, 0.5 * one, one)
    return labeler_table(["x"], labelers, np.array([count]), np.array([agreement]), 0.8, placed)[0]


@pytest.mark.parametrize(
    ("figures", "kind", "flagged"),
    [
        ({"b": 0.9}, "careful", False),
        ({"b": 0.55}, "noisy", False),
        ({"b": 0.3}, "noisy", True),
        ({"b": 0.05}, "random", True),
        ({"b": -0.2, "error": 0.1}, "random", True),
        ({"b": -0.8}, "reversed", True),
        ({"b": 0.3, "g": 0.9}, "position-biased", True),
        ({"b": 0.9, "g": 0.5}, "careful", False),
        ({"b": 0.3, "g": -0.9}, "position-biased", True),
        ({"b": -0.8, "count": 19}, "too-few-to-tell", False),
        ({"b": 0.3, "error": 0.2}, "noisy", False),
    ],
)
def test_kinds(figures, kind, flagged):
    row = table(**figures)
    assert (row.kind, row.flagged) == (kind, flagged)


def test_the_interval_is_that_of_a_normal_and_stays_within_one():
    row = table(b=0.95, error=0.1)
    assert (row.reliability, row.low, row.high) == pytest.approx((0.95, 0.95 - 0.196, 1.0))
    assert row.noise == pytest.approx(np.sqrt(0.5))


def test_position_bias_is_none_where_no_places_are_known():
    assert table(b=0.9, placed=False).position_bias is None
    assert table(b=0.9, g=0.1).position_bias == pytest.approx(0.1)


def test_evidence_is_one_sentence_with_the_figures_in_it():
    for kind in KINDS:
        text = evidence_of(kind, 0.42, 0.8, 55)
        assert text.endswith(".") and "42%" in text and "55 rankings" in text
    assert "shown last" in evidence_of("position-biased", 0.42, -0.8, 55)
    assert "1 ranking puts" in evidence_of("careful", float("nan"), None, 1)
