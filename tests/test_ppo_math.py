"""The arithmetic of PPO against values worked out by hand and against plain loops in numpy."""

import math

import numpy as np
import pytest
import torch

from alignment.training import ppo_math


def ragged(rng, rows=5, width=7):
    lengths = rng.integers(1, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(float)
    return lengths, mask


def test_token_rewards_by_hand():
    logps = torch.tensor([[-1.0, -2.0, -9.0]])
    ref = torch.tensor([[-1.5, -1.0, -1.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    rewards = ppo_math.token_rewards(torch.tensor([3.0]), logps, ref, mask, kl_coef=0.2)
    # -0.2 * (-1 + 1.5) = -0.1;  -0.2 * (-2 + 1) + 3 = 3.2;  padding earns nothing
    assert torch.allclose(rewards, torch.tensor([[-0.1, 3.2, 0.0]]))


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0, 50.0]])
    values = torch.tensor([[0.5, 0.25, 0.5, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    advantages, returns = ppo_math.gae(rewards, values, mask, gamma=0.9, lam=0.5)
    d2 = 1.0 - 0.5  # the value behind the last token is 0, whatever the padding holds
    d1 = 0.9 * 0.5 - 0.25
    d0 = 0.9 * 0.25 - 0.5
    a2, a1 = d2, d1 + 0.45 * d2
    a0 = d0 + 0.45 * a1
    assert torch.allclose(advantages, torch.tensor([[a0, a1, a2, 0.0]]))
    assert torch.allclose(returns, torch.tensor([[a0 + 0.5, a1 + 0.25, a2 + 0.5, 0.0]]))


def test_policy_losses_by_hand():
    old = torch.zeros(1, 4)
    logps = torch.log(torch.tensor([[1.5, 1.5, 0.5, 0.5]]))
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    losses, clipped = ppo_math.policy_losses(logps, old, advantages, cliprange=0.2)
    assert torch.allclose(losses, torch.tensor([[-1.2, 1.5, -0.5, 0.8]]))
    assert clipped.tolist() == [[1.0, 0.0, 0.0, 1.0]]


def test_value_losses_by_hand():
    values, old = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]])
    returns = torch.tensor([[1.0, 1.0]])
    losses, clipped = ppo_math.value_losses(values, old, returns, cliprange=0.2)
    # the first is clipped to 0.2, which is further from 1; the second lies inside the range
    assert torch.allclose(losses, torch.tensor([[0.5 * 0.8**2, 0.5 * 0.9**2]]))
    assert clipped.tolist() == [[1.0, 0.0]]


def test_normalised_scores_by_hand():
    scores = ppo_math.normalised_scores(
        torch.tensor([3.0, 100.0, -1.0]), torch.tensor([True, True, False]), 1.0, 2.0, 5.0, 0.5
    )
    assert scores.tolist() == [1.0, 5.0, -1.5]


def test_explained_variance_is_undefined_where_returns_do_not_vary():
    ones = torch.ones(2, 3)
    assert ppo_math.explained_variance(ones, ones, ones) is None
    returns = torch.tensor([[1.0, 2.0, 3.0]])
    mask = torch.ones(1, 3)
    assert ppo_math.explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert ppo_math.explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0.0)


def loop_gae(rewards, values, lengths, gamma, lam):
    advantages = np.zeros_like(rewards)
    for i, length in enumerate(lengths):
        for t in range(length):
            total, weight = 0.0, 1.0
            for k in range(t, length):
                following = values[i, k + 1] if k + 1 < length else 0.0
                total += weight * (rewards[i, k] + gamma * following - values[i, k])
                weight *= gamma * lam
            advantages[i, t] = total
    return advantages


def test_against_plain_loops_on_many_ragged_batches():
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows, width = rng.integers(1, 6), rng.integers(1, 9)
        lengths, mask = ragged(rng, rows, width)
        rewards, values, old, new = rng.normal(size=(4, rows, width))
        gamma, lam, clip, kl = (
            rng.uniform(0.5, 1),
            rng.uniform(0, 1),
            rng.uniform(0.05, 0.5),
            rng.uniform(0, 1),
        )
        t = {
            k: torch.tensor(v, dtype=torch.float64)
            for k, v in {"r": rewards, "v": values, "old": old, "new": new, "m": mask}.items()
        }
        advantages, returns = ppo_math.gae(t["r"], t["v"], t["m"], gamma, lam)
        expected = loop_gae(rewards, values, lengths, gamma, lam)
        np.testing.assert_allclose(advantages, expected, atol=1e-9)
        np.testing.assert_allclose(returns, (expected + values) * mask, atol=1e-9)

        scores = rng.normal(size=rows)
        tokens = ppo_math.token_rewards(torch.tensor(scores), t["new"], t["old"], t["m"], kl)
        for i, length in enumerate(lengths):
            for k in range(width):
                wanted = -kl * (new[i, k] - old[i, k]) if k < length else 0.0
                wanted += scores[i] if k == length - 1 else 0.0
                assert float(tokens[i, k]) == pytest.approx(wanted, abs=1e-9)

        losses, _ = ppo_math.policy_losses(t["new"], t["old"], t["r"], clip)
        value, _ = ppo_math.value_losses(t["new"], t["old"], t["r"], clip)
        for i in range(rows):
            for k in range(width):
                ratio, a = math.exp(new[i, k] - old[i, k]), rewards[i, k]
                bounded = min(max(ratio, 1 - clip), 1 + clip)
                assert float(losses[i, k]) == pytest.approx(-min(ratio * a, bounded * a), abs=1e-9)
                near = old[i, k] + min(max(new[i, k] - old[i, k], -clip), clip)
                worse = max((new[i, k] - a) ** 2, (near - a) ** 2)
                assert float(value[i, k]) == pytest.approx(worse / 2, abs=1e-9)


def test_whitening_leaves_mean_0_and_variance_1_on_the_mask_and_0_elsewhere():
    rng = np.random.default_rng(1)
    _, mask = ragged(rng, 6, 9)
    x, m = torch.tensor(rng.normal(3, 2, mask.shape)), torch.tensor(mask)
    mean = ppo_math.masked_mean(x, m)
    var = ppo_math.masked_mean((x - mean) ** 2, m)
    white = ppo_math.masked_whiten(x, m, mean, var)
    assert float(ppo_math.masked_mean(white, m)) == pytest.approx(0, abs=1e-9)
    assert float(ppo_math.masked_mean(white**2, m)) == pytest.approx(1, abs=1e-6)
    assert float((white * (1 - m)).abs().max()) == 0
