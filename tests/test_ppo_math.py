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
    kl = ppo_math.kl_k1(logps, ref)
    rewards = ppo_math.token_rewards(torch.tensor([3.0]), kl, mask, kl_coef=0.2)
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


def test_scores_by_hand():
    raw = torch.tensor([[3.0, 1.0], [101.0, 0.0], [-1.0, 2.0]])
    weights, means, stds = torch.tensor([[1.0, 0.5], [1.0, 0.0], [2.0, 1.0]])
    mixed = ppo_math.mixed_scores(raw, weights, means, stds)
    # (3 - 1) / 2 + 0.5 * 1;  (101 - 1) / 2;  (-1 - 1) / 2 + 0.5 * 2
    assert mixed.tolist() == [1.5, 50.0, 0.0]
    finished, lengths = torch.tensor([True, True, False]), torch.tensor([1, 2, 4])
    shaped = ppo_math.shaped_scores(mixed, finished, lengths, 5.0, 0.5, 0.25)
    assert shaped.tolist() == [1.25, 4.5, -1.5]


def test_likelihood_per_token_by_hand():
    logps = torch.tensor([[-1.0, -2.0, 7.0], [-4.0, 7.0, 7.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert ppo_math.mean_log_likelihood(logps, mask).tolist() == [-1.5, -4.0, 0.0]


def test_kl_estimates_by_hand():
    logps, ref = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, -math.log(2), -3.0])
    assert torch.allclose(ppo_math.kl_k1(logps, ref), torch.tensor([0.0, math.log(2), 2.0]))
    # r - 1 - log r with r = 1, 1/2, e^-2
    expected = torch.tensor([0.0, -0.5 + math.log(2), math.exp(-2) - 1 + 2])
    assert torch.allclose(ppo_math.kl_k3(logps, ref), expected)


def test_both_kl_estimates_average_to_the_divergence():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6), 2)
    logp, logq = torch.tensor(np.log(p)), torch.tensor(np.log(q))
    exact = float((p * np.log(p / q)).sum())
    for estimate in (ppo_math.kl_k1, ppo_math.kl_k3):
        assert float((torch.tensor(p) * estimate(logp, logq)).sum()) == pytest.approx(exact)


def test_the_gradient_of_k3_in_the_loss_is_that_of_the_divergence():
    # d/dlogp of k3 is 1 - r; its mean over pi times the score function is grad KL, at the sampling policy.
    logps = torch.tensor([-1.0], requires_grad=True)
    ppo_math.kl_k3(logps, torch.tensor([-1.5])).sum().backward()
    assert float(logps.grad) == pytest.approx(1 - math.exp(-0.5))


def test_loss_per_token_by_hand():
    one = torch.ones(1, 1)
    options = {"vf_coef": 0.5, "entropy_coef": 0.1, "kl_coef": 0.2}
    loss = ppo_math.loss_per_token(2 * one, 4 * one, 3 * one, 5 * one, **options)
    assert float(loss) == pytest.approx(2 - 0.3 + 1.0 + 2.0)
    without = ppo_math.loss_per_token(2 * one, 4 * one, 3 * one, None, **options)
    assert float(without) == pytest.approx(2 - 0.3 + 2.0)
    warming = ppo_math.loss_per_token(
        2 * one, 4 * one, 3 * one, 5 * one, **options, policy_coef=0.0
    )
    assert float(warming) == pytest.approx(2.0)


def test_adapted_kl_coef_by_hand():
    # kl twice the target: the error 1 is clipped to 0.2; 256 episodes of a horizon of 10,000
    assert ppo_math.adapted_kl_coef(0.1, 12.0, 6.0, 256, 10_000) == pytest.approx(
        0.1 * (1 + 0.2 * 256 / 10_000)
    )
    assert ppo_math.adapted_kl_coef(0.1, 5.4, 6.0, 100, 1000) == pytest.approx(0.1 * 0.99)
    assert ppo_math.adapted_kl_coef(0.1, 6.0, 6.0, 100, 1000) == 0.1
    assert ppo_math.adapted_kl_coef(0.1, -9.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)


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


def plain_losses(new, old, advantages, values, old_values, returns, ref, entropy, mask, o):
    """The whole objective token by token, as the papers write it; mean over the mask."""
    total = 0.0
    for i, k in zip(*np.nonzero(mask), strict=True):
        ratio = math.exp(new[i, k] - old[i, k])
        bounded = min(max(ratio, 1 - o["clip"]), 1 + o["clip"])
        policy = -min(ratio * advantages[i, k], bounded * advantages[i, k])
        step = min(max(values[i, k] - old_values[i, k], -o["vclip"]), o["vclip"])
        errors = (values[i, k] - returns[i, k]) ** 2, (old_values[i, k] + step - returns[i, k]) ** 2
        r = math.exp(ref[i, k] - new[i, k])
        kl = r - 1 - math.log(r)
        total += policy - o["ent"] * entropy[i, k] + o["kl"] * kl + o["vf"] * max(errors) / 2
    return total / mask.sum()


def plain_rewards(raw, weights, means, stds, lengths, finished, new, ref, o):
    """Token rewards by loops: shaped scores on the last token, the k1 penalty on each."""
    rewards = np.zeros_like(new)
    for i, length in enumerate(lengths):
        score = sum(
            w * (r - m) / s for w, r, m, s in zip(weights, raw[i], means, stds, strict=True)
        )
        score = max(-o["rclip"], min(o["rclip"], score))
        score -= (0.0 if finished[i] else o["eos"]) + o["len"] * length
        for k in range(length):
            rewards[i, k] = -o["kl"] * (new[i, k] - ref[i, k]) + (score if k == length - 1 else 0)
    return rewards


def test_against_an_independent_implementation_on_thousands_of_ragged_batches():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        rows, width, terms = rng.integers(1, 5), rng.integers(1, 8), rng.integers(1, 4)
        lengths, mask = ragged(rng, rows, width)
        new, old, ref, values, old_values = rng.normal(size=(5, rows, width)) / 2
        entropy = rng.uniform(0, 3, (rows, width))
        raw, finished = rng.normal(size=(rows, terms)), rng.random(rows) < 0.7
        weights, means, stds = (
            rng.normal(size=terms),
            rng.normal(size=terms),
            rng.uniform(0.5, 2, terms),
        )
        names = ("clip", "vclip", "ent", "kl", "vf", "rclip", "eos", "len")
        o = dict(zip(names, rng.uniform(0.05, 1, len(names)), strict=True))
        gamma, lam = rng.uniform(0.5, 1), rng.uniform(0, 1)

        t = torch.tensor
        m = t(mask)
        scores = ppo_math.shaped_scores(
            ppo_math.mixed_scores(t(raw), t(weights), t(means), t(stds)),
            t(finished),
            m.sum(1),
            o["rclip"],
            o["eos"],
            o["len"],
        )
        rewards = ppo_math.token_rewards(scores, ppo_math.kl_k1(t(new), t(ref)), m, o["kl"])
        plain = plain_rewards(raw, weights, means, stds, lengths, finished, new, ref, o)
        np.testing.assert_allclose(rewards, plain, atol=1e-6)

        advantages, returns = ppo_math.gae(rewards, t(old_values), m, gamma, lam)
        expected = loop_gae(plain, old_values, lengths, gamma, lam)
        np.testing.assert_allclose(advantages, expected, atol=1e-6)
        np.testing.assert_allclose(returns, (expected + old_values) * mask, atol=1e-6)

        policy, _ = ppo_math.policy_losses(t(new), t(old), advantages, o["clip"])
        value, _ = ppo_math.value_losses(t(values), t(old_values), returns, o["vclip"])
        loss = ppo_math.loss_per_token(
            policy,
            value,
            t(entropy),
            ppo_math.kl_k3(t(new), t(ref)),
            vf_coef=o["vf"],
            entropy_coef=o["ent"],
            kl_coef=o["kl"],
        )
        whole = plain_losses(
            new, old, expected, values, old_values, expected + old_values, ref, entropy, mask, o
        )
        assert float(ppo_math.masked_mean(loss, m)) == pytest.approx(whole, abs=1e-6)


def test_whitening_leaves_mean_0_and_variance_1_on_the_mask_and_0_elsewhere():
    rng = np.random.default_rng(1)
    _, mask = ragged(rng, 6, 9)
    x, m = torch.tensor(rng.normal(3, 2, mask.shape)), torch.tensor(mask)
    mean, var = ppo_math.masked_moments(x, m)
    white = ppo_math.masked_whiten(x, m, mean, var)
    assert float(ppo_math.masked_mean(white, m)) == pytest.approx(0, abs=1e-9)
    assert float(ppo_math.masked_mean(white**2, m)) == pytest.approx(1, abs=1e-6)
    assert float((white * (1 - m)).abs().max()) == 0
    scaled = ppo_math.masked_whiten(x, m, mean, var, shift_mean=False)
    kept = x[m.bool()].numpy()
    expected = (kept - kept.mean()) / kept.std() + kept.mean()
    np.testing.assert_allclose(scaled[m.bool()], expected, atol=1e-6)
    assert float((scaled * (1 - m)).abs().max()) == 0


def far_from_zero():
    """Ragged returns of mean 100 and deviation 0.01, and values that explain most of it, in float32."""
    rng = np.random.default_rng(2)
    _, mask = ragged(rng, 32, 20)
    signal = rng.normal(0, 0.01, mask.shape)
    returns = (100 + signal).astype(np.float32)
    values = (99 + 0.8 * signal + rng.normal(0, 0.002, mask.shape)).astype(np.float32)
    return values, returns, mask.astype(np.float32)


def test_moments_and_explained_variance_far_from_zero_are_numpys():
    """E[x^2] - E[x]^2 in float32 is off by more than the variance itself here."""
    values, returns, mask = far_from_zero()
    t, kept = torch.from_numpy, mask.astype(bool)
    mean, var = ppo_math.masked_moments(t(returns), t(mask))
    exact = returns[kept].astype(np.float64)
    assert float(mean) == pytest.approx(exact.mean(), rel=1e-6)
    assert float(var) == pytest.approx(exact.var(), rel=1e-3)
    left = exact - values[kept].astype(np.float64)
    found = ppo_math.explained_variance(t(values), t(returns), t(mask))
    assert found == pytest.approx(1 - left.var() / exact.var(), abs=1e-3)
    assert found > 0.8


def test_a_process_has_the_moments_of_all():
    _, returns, mask = (torch.from_numpy(array) for array in far_from_zero())
    mean, var = ppo_math.masked_moments(returns, mask)
    other, kept = returns[10:], mask[10:]
    sums = iter(
        [torch.stack([(other * kept).sum(), kept.sum()]), ((other - mean) ** 2 * kept).sum()]
    )
    found = ppo_math.masked_moments(returns[:10], mask[:10], lambda here: here + next(sums))
    assert float(found[0]) == pytest.approx(float(mean), rel=1e-6)
    assert float(found[1]) == pytest.approx(float(var), rel=1e-3)
