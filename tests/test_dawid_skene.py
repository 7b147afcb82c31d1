"""The one-coin model against a slow implementation, by hand, and where it must recover the truth."""

import numpy as np
import pytest

from alignment.feedback import dawid_skene as ds
from alignment.feedback.pair_votes import votes_of


def random_votes(seed, prompts=8, labelers=4, width=3, ties=True):
    rng = np.random.default_rng(seed)
    rows = prompts * labelers
    ranks = np.argsort(rng.random((rows, width)), axis=1) + 1
    if ties:
        ranks = rng.integers(1, width + 1, (rows, width))
    prompt = np.repeat(np.arange(prompts), labelers)
    return (
        votes_of(ranks.astype(np.int8), np.arange(0, rows, labelers)),
        prompt,
        np.tile(np.arange(labelers), prompts),
    )


@pytest.mark.parametrize("ties", [False, True])
def test_the_posterior_equals_the_products_of_probabilities(ties):
    votes, prompt, labeler = random_votes(1, ties=ties)
    weight = np.random.default_rng(2).uniform(0.5, 1, len(prompt))
    accuracy = np.array([0.9, 0.6, 0.2, 0.5])
    coins = ds.Coins(accuracy, accuracy, 0.2 if ties else 0.0, 0.7, 0.1)
    starts = np.flatnonzero(np.r_[True, np.diff(prompt) > 0])
    tied = votes.cast & (votes.vote == 0)
    posterior = ds.infer_orders(
        coins,
        votes.vote,
        labeler,
        weight,
        starts,
        np.add.reduceat(weight[:, None] * tied, starts, axis=0),
        np.add.reduceat(weight[:, None] * (votes.vote != 0), starts, axis=0),
    )
    for p in range(8):
        for n in range(3):
            likelihood = {
                1: (1 - coins.level_share) / 2,
                -1: (1 - coins.level_share) / 2,
                0: coins.level_share,
            }
            for r in np.flatnonzero(prompt == p):
                v, a = votes.vote[r, n], accuracy[labeler[r]]
                for truth in likelihood:
                    if truth == 0:
                        chance = coins.tie_if_level if v == 0 else (1 - coins.tie_if_level) / 2
                    elif v == 0:
                        chance = coins.tie_if_ordered
                    else:
                        says = a if v == truth else 1 - a
                        chance = (1 - coins.tie_if_ordered if ties else 1) * says
                    likelihood[truth] *= chance ** weight[r]
            total = sum(likelihood.values())
            found = [posterior[k][p, n] for k in range(3)]
            assert found == pytest.approx(
                [likelihood[1] / total, likelihood[-1] / total, likelihood[0] / total]
            )


def test_two_right_and_one_wrong_by_hand():
    """Equal accuracies of 3/4: two votes to one give odds of 3, that is 3/4, before any learning."""
    votes = votes_of(np.array([[1, 2], [1, 2], [2, 1]], np.int8), np.array([0]))
    coins = ds.Coins(np.full(3, 0.75), np.full(3, 0.75), 0.0, 0.6, 0.1)
    one, zero = np.ones(3), np.zeros((1, 1))
    plus, minus, level = ds.infer_orders(
        coins, votes.vote, np.arange(3), one, np.array([0]), zero, zero + 3
    )
    assert (plus[0, 0], minus[0, 0], level[0, 0]) == pytest.approx((0.75, 0.25, 0))


def drawn(accuracy, prompts, seed, tie=0.0):
    rng = np.random.default_rng(seed)
    labelers = len(accuracy)
    truth = rng.choice([1, -1], prompts)
    right = rng.random((prompts, labelers)) < accuracy
    vote = np.where(right, truth[:, None], -truth[:, None])
    vote[rng.random(vote.shape) < tie] = 0
    ranks = np.stack([2 - (vote >= 0), 2 - (vote <= 0)], axis=-1).reshape(-1, 2).astype(np.int8)
    prompt = np.repeat(np.arange(prompts), labelers)
    votes = votes_of(ranks, np.arange(0, len(prompt), labelers))
    return truth, votes, prompt, np.tile(np.arange(labelers), prompts)


@pytest.mark.parametrize("tie", [0.0, 0.2])
def test_accuracies_are_recovered_also_below_a_half(tie):
    accuracy = np.array([0.95, 0.8, 0.6, 0.5, 0.15])
    truth, votes, prompt, labeler = drawn(accuracy, 3000, 0, tie)
    fit = ds.fit_one_coin(votes, prompt, labeler, np.ones(len(prompt)), np.zeros(5, bool))
    assert fit.converged
    # Ties drawn without regard to the truth cost the best labeler a little, as they count as half right.
    assert fit.coins.direction == pytest.approx(accuracy, abs=0.03 if tie == 0 else 0.05)
    confidence = (fit.first_better + fit.level / 2)[:, 0]
    assert np.mean((confidence > 0.5) == (truth > 0)) > (0.95 if tie == 0 else 0.9)


def test_gold_keeps_its_accuracy_and_turns_the_others():
    accuracy = np.array([1.0, 0.1, 0.1, 0.1])
    _, votes, prompt, labeler = drawn(accuracy, 200, 1)
    fit = ds.fit_one_coin(votes, prompt, labeler, np.ones(len(prompt)), np.arange(4) == 0)
    assert fit.coins.accuracy[0] == ds.GOLD_ACCURACY
    assert (fit.coins.accuracy[1:] < 0.2).all()


def test_a_warm_start_ends_where_a_cold_one_does():
    accuracy = np.array([0.9, 0.8, 0.7, 0.3])
    _, votes, prompt, labeler = drawn(accuracy, 500, 2)
    args = votes, prompt, labeler, np.ones(len(prompt)), np.zeros(4, bool)
    cold = ds.fit_one_coin(*args)
    warm = ds.fit_one_coin(*args, cold)
    assert warm.iterations < cold.iterations
    assert warm.coins.accuracy == pytest.approx(cold.coins.accuracy, abs=1e-4)
