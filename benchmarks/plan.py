"""`concord plan` against measured peaks of small models: `make bench-plan`, or `python -m benchmarks.plan`.

Prints planned and measured megabytes of torch's CPU allocator for SFT (LoRA and full), reward model and PPO on five
architectures, several lengths, batches and precisions. The last line is JSON with the largest error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from alignment.files import write_json
from benchmarks.plan_steps import Step, measured, planned

LIMIT = 0.20
SHORT = {
    "prompt_length": 8,
    "completion_length": 8,
}  # the weights decide: highest while it generates
LLAMA_STEPS = [
    Step("sft", lora_rank=None),
    Step("sft", lora_rank=None, activation_checkpointing=True),
    Step("sft"),
    Step("sft", vocab_size=32000, batch=2),
    Step("sft", hidden_size=512, num_hidden_layers=6, batch=2, completion_length=192),
    Step("sft", precision="bf16"),
    Step("reward", batch=16),
    Step("reward", lora_rank=None),
    Step("reward", hidden_size=512, num_hidden_layers=6, lora_rank=64, batch=4),
    Step("reward", precision="bf16"),
    Step("ppo", rollout=8, completion_length=32),
    Step("ppo", hidden_size=512, num_hidden_layers=6, batch=4, rollout=4, completion_length=32),
    Step("ppo", precision="bf16", rollout=8, completion_length=32),
    Step("reward", lora_layers="upper-half"),
    Step("ppo", lora_layers="upper-half", rollout=8, completion_length=32),
    Step("ppo", critic="head", rollout=8, completion_length=32),
    Step("ppo", lora_layers="upper-half", critic="head", rollout=8, completion_length=32),
    Step("ppo", activation_checkpointing=True, rollout=8, completion_length=32),
    Step("ppo", vocab_size=1000, hidden_size=512, batch=1, rollout=4, **SHORT),
    Step(
        "ppo",
        vocab_size=1000,
        hidden_size=512,
        batch=1,
        rollout=4,
        lora_layers="upper-half",
        **SHORT,
    ),
]
OTHER_STEPS = [
    Step(stage, architecture, rollout=8, completion_length=32)
    for architecture in ("gpt2", "qwen3", "gemma2", "opt")
    for stage in ("sft", "reward", "ppo")
]


def main() -> None:
    """Measure, print, and fail where the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Llama only")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    rows, steps = [], [*LLAMA_STEPS, *([] if arguments.quick else OTHER_STEPS)]
    print(f"{'step':60} {'planned':>9} {'measured':>9}   ratio  at")
    for step, peak in zip(steps, measured(steps), strict=True):
        plan = planned(step)
        ratio = plan["peak_bytes"] / peak["peak"]
        rows.append(
            {
                "step": str(step),
                "planned": plan["peak_bytes"],
                "measured": peak["peak"],
                "ratio": ratio,
            }
        )
        default = Step(step.stage)
        words = [step.stage, step.architecture]
        words += [
            f"{key} {value}"
            for key, value in vars(step).items()
            if key not in ("stage", "architecture") and value != getattr(default, key)
        ]
        print(
            f"{', '.join(words)[:60]:60} {plan['peak_bytes'] / 1e6:9.1f} {peak['peak'] / 1e6:9.1f}   "
            f"{ratio:.3f}  {plan['peak_at']}"
        )
    worst = max(abs(row["ratio"] - 1) for row in rows)
    figures = {"worst_error": worst, "limit": LIMIT, "steps": len(rows), "rows": rows}
    print(json.dumps(figures))
    if arguments.json:
        write_json(arguments.json, figures)
    if worst > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
