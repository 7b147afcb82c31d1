"""A PPO run that kills itself at a given moment: `python -m tests.ppo_killed MOMENT OUT MODEL REWARD`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from alignment.training import ppo_trainer
from tests.test_ppo_resume import job_of, pipeline

MOMENTS = {
    # the 5th rollout, the 2nd micro-batch of the 5th iteration's updates, and the 2nd checkpoint, half-written
    "rollout": ("_rollout_passes", 5),
    "update": ("_compute_loss", 8 * 4 + 2),
    "save": ("_save_optimizer_and_scheduler", 2),
}


def main() -> None:
    """Run until the moment."""
    moment, out, model, reward = sys.argv[1:]
    name, count = MOMENTS[moment]
    original, calls = getattr(ppo_trainer.PPOTrainer, name), []

    def counted(self, *args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(ppo_trainer.PPOTrainer, name, counted)
    pipeline.train_ppo(job_of(Path(out), model, reward))


if __name__ == "__main__":
    main()
