"""The arithmetic of PPO from human feedback, as pure functions on padded batches.

Throughout, B completions of at most T tokens; `mask` [B, T] is 1 on a completion's own tokens, which come first in
each row, and 0 on its padding. Masks come from lengths, never from token ids. Sources: Schulman et al. 2017 (PPO,
arXiv:1707.06347), Schulman et al. 2016 (GAE, arXiv:1506.02438), Ziegler et al. 2019 (arXiv:1909.08593), Huang et al.
2024 ("The N+ Implementation Details of RLHF with PPO", arXiv:2403.17031).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` [B, T] over the tokens of `mask`; 0 where there are none. Returns a scalar."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def masked_moments(
    x: Tensor, mask: Tensor, summed: Callable[[Tensor], Tensor] = lambda sums: sums
) -> tuple[Tensor, Tensor]:
    """Mean and variance of `x` [B, T] on the mask, scalars. `summed` adds a tensor up over all processes.

    In two passes: E[x^2] - E[x]^2 leaves nothing right in float32 where the mean is large beside the deviation.
    """
    total, count = summed(torch.stack([(x * mask).sum(), mask.sum()]))
    count = count.clamp(min=1)
    mean = total / count
    return mean, summed(((x - mean) ** 2 * mask).sum()) / count


def masked_whiten(
    x: Tensor, mask: Tensor, mean: Tensor, var: Tensor, shift_mean: bool = True
) -> Tensor:
    """(x - mean) / sqrt(var) on the mask, 0 elsewhere. Mean and variance are given: they span all processes.

    Without `shift_mean` the mean stays: rewards are only scaled (Huang et al. 2024, detail 22).
    """
    white = (x - mean) * torch.rsqrt(var + 1e-8)
    return (white if shift_mean else white + mean) * mask


def mean_log_likelihood(logps: Tensor, mask: Tensor) -> Tensor:
    """Log-likelihood per token [B] in nats of completions with `logps` [B, T]; 0 for one without tokens."""
    return (logps * mask).sum(1) / mask.sum(1).clamp(min=1)


def mixed_scores(raw: Tensor, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Weighted sum [B] of the terms of the reward, raw scores [B, N], each in its own standard deviations.

    sum_n w_n (r_n - mean_n) / std_n.
    """
    return ((raw - means) / stds * weights).sum(1)


def shaped_scores(
    scores: Tensor,
    finished: Tensor,
    lengths: Tensor,
    clip: float,
    missing_eos_penalty: float,
    length_penalty: float,
) -> Tensor:
    """Normalised scores [B], clipped, less the penalties for not ending and for each token.

    clip(r, -c, c) - p_eos [not finished] - p_len length. `missing_eos_penalty` is TRL's; the penalties are taken after
    clipping, so that they are felt at either end of the scale.
    """
    missing = missing_eos_penalty * (~finished).to(scores.dtype)
    return scores.clamp(-clip, clip) - missing - length_penalty * lengths.to(scores.dtype)


def kl_k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Schulman's k1 estimate of KL(pi || ref) per token: log pi - log ref. Unbiased; may be negative."""
    return logps - ref_logps


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || ref) per token: r - 1 - log r, r = ref / pi. Unbiased and never negative.

    http://joschu.net/blog/kl-approx.html
    """
    log_ratio = ref_logps - logps
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Rewards per token [B, T]: -kl_coef kl_t [B, T], and the score [B] on the last token.

    Ziegler et al. 2019, eq. 2, per token. With the KL penalty in the loss, `kl_coef` is 0 here.
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(1).long() - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores
    return rewards


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both [B, T].

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1} (Schulman et al. 2016, eq. 16). Behind the
    last token V and A are 0: a completion cut at the length limit bootstraps zero like one that ended, and pays
    `missing_eos_penalty` in its score instead. Return = A + V.
    """
    values = values * mask
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.size(1))):
        following = values[:, t + 1] if t + 1 < rewards.size(1) else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def policy_losses(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate per token, -min(ratio A, clip(ratio) A), and where clipping was in force; both [B, T].

    Schulman et al. 2017, eq. 7.
    """
    ratio = torch.exp(logps - old_logps)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    return -torch.min(unclipped, clipped), (clipped < unclipped).float()


def loss_per_token(
    policy: Tensor,
    value: Tensor,
    entropy: Tensor,
    kl: Tensor | None,
    *,
    vf_coef: float,
    entropy_coef: float,
    kl_coef: float,
    policy_coef: float = 1.0,
) -> Tensor:
    """The objective to minimise, [B, T]: p (L_policy - c_H H + beta KL) + c_v L_value.

    Schulman et al. 2017, eq. 9, with the KL penalty of the loss where `kl` [B, T] is given. `policy_coef` p is 0 while
    the critic warms up: only the value learns then.
    """
    actor = policy if entropy_coef == 0 else policy - entropy_coef * entropy
    if kl is not None:
        actor = actor + kl_coef * kl
    return policy_coef * actor + vf_coef * value


def value_losses(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error per token, the worse of the value and the value clipped around its old estimate.

    Also where clipping was in force; both [B, T]. Huang et al. 2024, detail 23.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    plain_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * torch.max(plain_error, clipped_error), (clipped_error > plain_error).float()


def explained_variance(
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    summed: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> float | None:
    """1 - Var(returns - values) / Var(returns) on the mask; None where the returns do not vary."""
    _, variance = masked_moments(returns, mask, summed)
    _, unexplained = masked_moments(returns - values, mask, summed)
    return None if variance < 1e-12 else float(1 - unexplained / variance)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The KL coefficient after a rollout of `episodes` whose mean KL per completion was `kl` nats.

    Ziegler et al. 2019, section 2.2: e = clip(kl / target - 1, -0.2, 0.2), beta <- beta (1 + e episodes / horizon).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)
