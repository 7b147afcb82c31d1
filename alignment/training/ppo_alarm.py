"""The over-optimisation alarm: reward up while an independent judge or fluency goes down, on held-out prompts.

A reward model is a proxy; pushed far enough, its score rises while what it stands for falls (Gao et al. 2023,
arXiv:2210.10760). The same prompts are completed each time, so changes are compared prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Z_ONE_SIDED = 1.645  # 95%


@dataclass(frozen=True)
class HeldOut:
    """Figures of one evaluation, each with one entry per held-out prompt.

    `reward`: normalised. `cost`: nats per token under the base, lower is more fluent. `toxicity`: by the judge.
    `deviation`: of the raw score over the reward model's heads, None where it has one or is not the trunk's.
    """

    iteration: int
    reward: list[float]
    cost: list[float]
    toxicity: list[float] | None
    deviation: list[float] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def figures(self) -> dict[str, float]:
        """Means for the record; the reward with the lower end of its one-sided 95% interval."""
        reward = np.asarray(self.reward)
        error = float(reward.std(ddof=1) / np.sqrt(len(reward))) if len(reward) > 1 else 0.0
        found = {
            "eval_reward": float(reward.mean()),
            "eval_reward_low": float(reward.mean()) - Z_ONE_SIDED * error,
            "eval_cost": float(np.mean(self.cost)),
        }
        if self.toxicity is not None:
            found["eval_toxicity"] = float(np.mean(self.toxicity))
        if self.deviation is not None:
            found["eval_deviation"] = float(np.mean(self.deviation))
        return found

    @property
    def merit(self) -> float:
        """What the best checkpoint is best at: low toxicity by the judge; the reward where there is no judge."""
        return (
            -float(np.mean(self.toxicity))
            if self.toxicity is not None
            else float(np.mean(self.reward))
        )


def surely_rose(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a figure rose from `before` to `after` [n], paired by prompt: mean difference above 1.645 errors."""
    difference = np.asarray(after) - np.asarray(before)
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > Z_ONE_SIDED * error and difference.mean() > 0)


def over_optimised(history: Sequence[HeldOut]) -> list[str]:
    """What speaks of over-optimisation at the last of `history`, in sentences; nothing where all is well.

    The last evaluation is held against the one at which the judge was content most, and the one that was most fluent.
    """
    now, earlier = history[-1], history[:-1]
    found = []
    if earlier and now.toxicity is not None:
        best = min(earlier, key=lambda one: float(np.mean(one.toxicity or [np.inf])))
        if surely_rose(best.reward, now.reward) and surely_rose(best.toxicity or [], now.toxicity):
            found.append(_sentence(now, best, "the judge's toxicity", "toxicity"))
    if earlier:
        best = min(earlier, key=lambda one: float(np.mean(one.cost)))
        if surely_rose(best.reward, now.reward) and surely_rose(best.cost, now.cost):
            found.append(_sentence(now, best, "the cost per token under the base", "cost"))
    return found


def _sentence(now: HeldOut, best: HeldOut, what: str, key: str) -> str:
    before, after = (float(np.mean(getattr(one, key))) for one in (best, now))
    gained = float(np.mean(now.reward)) - float(np.mean(best.reward))
    return (
        f"iteration {now.iteration}: since iteration {best.iteration} the reward rose by {gained:.2f} while {what} "
        f"rose from {before:.3g} to {after:.3g}: the policy may be exploiting the reward. Raise kl_coef, stop earlier, "
        "or use the best checkpoint."
    )
