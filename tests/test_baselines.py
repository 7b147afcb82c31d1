"""Majority and Borda by hand and against scipy; chains of comparisons."""

import numpy as np
import pytest
from scipy import stats

from alignment.feedback import baselines
from alignment.feedback.pair_votes import linked_pairs, votes_of

RANKS = np.array([[1, 2, 3], [1, 3, 2], [2, 1, 1]], np.int8)
STARTS = np.array([0])


def test_copeland_counts_pairs_won():
    """a beats b 2 to 1 and c 2 to 1; b and c are level at 1 to 1 and a tie."""
    assert baselines.copeland_scores(votes_of(RANKS, STARTS), 3).tolist() == [[2, -1, -1]]


def test_votes_are_counted_for_against_and_level():
    votes = votes_of(RANKS, STARTS)
    assert votes.wins.tolist() == [[2, 2, 1]]
    assert votes.losses.tolist() == [[1, 1, 1]]
    assert votes.ties.tolist() == [[0, 0, 1]]


def test_majority_confidence_is_the_tail_of_a_beta():
    votes = votes_of(RANKS, STARTS)
    expected = [stats.beta(1 + w, 1 + n).sf(0.5) for w, n in ((2, 1), (2, 1), (1, 1))]
    assert baselines.majority_confidence(votes)[0] == pytest.approx(expected)
    assert baselines.majority_probability(votes)[0] == pytest.approx([3 / 5, 3 / 5, 2.5 / 5])


def test_borda_points_and_scores():
    points = baselines.borda_points(RANKS)
    assert points.tolist() == [[1, 0, -1], [1, -1, 0], [-1, 0.5, 0.5]]
    assert baselines.borda_scores(points, RANKS, STARTS)[0] == pytest.approx(
        [1 / 3, -0.5 / 3, -0.5 / 3]
    )
    partial = np.array([[1, 0, 2]], np.int8)
    assert baselines.borda_points(partial).tolist() == [[0.5, 0, -0.5]]


def test_borda_confidence_has_the_variance_of_random_rankings():
    rng = np.random.default_rng(0)
    for width in (2, 4):
        ranks = (np.argsort(rng.random((30_000, width)), axis=1) + 1).astype(np.int8)
        starts = np.arange(0, 30_000, 3)
        scores = baselines.borda_scores(baselines.borda_points(ranks), ranks, starts)
        difference = scores[:, 0] - scores[:, 1]
        assert difference.std() == pytest.approx(np.sqrt(width * (width + 1) / 6 / 3), rel=0.03)
        votes = votes_of(ranks, starts)
        confidence = baselines.borda_confidence(scores, ranks, votes, starts)[:, 0]
        expected = stats.norm.cdf(difference / np.sqrt(width * (width + 1) / 6 / 3))
        assert confidence == pytest.approx(expected)


def test_pairs_are_linked_through_chains_within_a_prompt():
    ranks = np.array([[1, 2, 0, 0, 0], [0, 1, 2, 0, 0], [0, 0, 0, 1, 2]], np.int8)
    votes = votes_of(ranks, STARTS)
    names = [(int(i), int(j)) for i, j in zip(votes.first, votes.second, strict=True)]
    linked = {
        pair for pair, is_linked in zip(names, linked_pairs(votes, 5)[0], strict=True) if is_linked
    }
    assert linked == {(0, 1), (1, 2), (0, 2), (3, 4)}
