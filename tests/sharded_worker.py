"""What the tests run in each process: training whose rollouts are given, and that keeps every gradient.

Sampling draws from each process's own random state, so that a run on two processes writes other completions than one
on a single process. Here a completion follows from its prompt and its place in the group alone: then both train on the
same episodes, and every loss and gradient can be compared.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModelForCausalLM
from transformers import TrainerCallback

from alignment.models import distributed
from alignment.training import worker

GRADIENTS = "gradients.pt"
ONE_STAGE = worker.run


def given_completions(self, prompt_ids, *_, **__):
    """Stands in for `GRPOTrainer._generate_single_turn`: 2 to 6 tokens, every third one ended."""
    end, places, drawn = self.eos_token_ids[0], {}, []
    for ids in prompt_ids:
        place = places[tuple(ids)] = places.get(tuple(ids), -1) + 1
        generator = torch.Generator().manual_seed(1000 * place + sum(ids))
        length = int(torch.randint(2, 7, (1,), generator=generator))
        tokens = torch.randint(5, 290, (length,), generator=generator).tolist()
        drawn.append([*tokens[:-1], end] if (sum(ids) + place) % 3 == 0 else tokens)
    return drawn, None


class KeepGradients(TrainerCallback):
    """Whole gradients of every update, by parameter name, in `out/gradients.pt`."""

    out = Path()  # of the stage under way
    stop_after: int | None = None  # the step after whose checkpoint it breaks off

    def __init__(self):
        self.steps, self.trains = [], set()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Each process generates another number of tokens: if they did not keep step, this would never end."""
        if isinstance(model, PeftModelForCausalLM):
            tokens = 2 + 3 * distributed.rank()
            model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=tokens, do_sample=False)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trains = {name for name, p in model.named_parameters() if p.requires_grad}
        self.steps.append(
            {
                name.removeprefix("module."): distributed.whole(p.grad).cpu().clone()
                for name, p in model.named_parameters()
                if p.grad is not None
            }
        )

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.stop_after:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        if distributed.is_main():
            sharded = sum(hasattr(p, "full_tensor") for p in kwargs["model"].parameters())
            trains = sorted(name.removeprefix("module.") for name in self.trains)
            torch.save(
                {"steps": self.steps, "sharded": sharded, "trains": trains}, self.out / GRADIENTS
            )


def several(spec, out: Path, progress):
    """Stands in for `worker.run`: each part of `spec` in a folder of its own, in the same processes."""
    figures = {}
    for name, part in spec["parts"].items():
        folder = KeepGradients.out = out / part.get("folder", name)
        KeepGradients.stop_after = part.get("stop_after")
        folder.mkdir(exist_ok=True)
        figures[name] = ONE_STAGE(part, folder, progress)
    return figures


def install(patch=setattr) -> None:
    """Put all of it in force in this process. `patch` may be `monkeypatch.setattr`."""
    from transformers import trainer
    from trl.trainer.grpo_trainer import GRPOTrainer

    patch(GRPOTrainer, "_generate_single_turn", given_completions)
    patch(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, KeepGradients])
    patch(worker, "run", several)


if __name__ == "__main__":
    install()
    sys.exit(worker.main(Path(sys.argv[1])))
