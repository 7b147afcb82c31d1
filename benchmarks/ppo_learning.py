"""What the options of PPO do to learning, on the demo: `python -m benchmarks.ppo_learning`.

For each seed the demo's rankings, consensus and reward models are made once; then each variant of PPO is trained and
held against the base on the held-out prompts, as the demo does. Finished cells are kept in --folder, so a broken-off
command goes on where it was; cells of other settings are trained again. `--quick` runs one seed and the three critics.
Both critics, as they start by default and with a fixed KL coefficient, are held to the goals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from alignment import pipeline
from alignment.cli import _private_and_quiet, _progress
from alignment.config import Config
from alignment.demo import HELD_OUT_PROMPTS, TRAIN_PROMPTS, demo_config
from alignment.files import read_json, write_json
from alignment.models.demo_language import demo_prompts
from alignment.pipeline import Job
from alignment.training.ppo_watch import read_rows
from alignment.workspace import Workspace

CRITICS: dict[str, dict[str, Any]] = {
    "adapter from reward": {"critic": "adapter", "value_init": "reward"},
    "adapter from zero": {"critic": "adapter", "value_init": "zero"},
    "head": {"critic": "head"},
}
KL: dict[str, dict[str, Any]] = {
    "fixed": {},
    "adaptive": {"kl_target": 2.0, "kl_horizon": 1000},
    "none": {"kl_coef": 0.0},
}
UPPER = "upper half"
LAST = 5  # iterations over which the explained variance at the end is averaged
PROMISED = ("adapter from reward, KL fixed", "head, KL fixed")
GOALS = {  # the least and the most of a figure
    "reduction": (0.85, 1.0),
    "perplexity": (-1.0, 0.12),
    "distinct": (0.9, float("inf")),
    "explained_variance": (0.5, 1.0),
    "seconds": (0.0, 180.0),
}


def variants(quick: bool) -> dict[str, dict[str, Any]]:
    """Options by name: every critic with every KL penalty, and the critics with adapters on the upper half."""
    if quick:
        return {f"{critic}, KL fixed": options for critic, options in CRITICS.items()}
    crossed = {
        f"{critic}, KL {kl}": {**CRITICS[critic], **KL[kl]} for kl in KL for critic in CRITICS
    }
    upper = {
        f"{critic}, KL fixed, {UPPER}": {**CRITICS[critic], "lora_layers": "upper-half"}
        for critic in ("adapter from reward", "head")
    }
    return {**crossed, **upper}


def main() -> None:
    """Train the cells that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seed 0, three critics")
    parser.add_argument("--seed", type=int, help="only this seed")
    parser.add_argument("--only", help="only variants whose name holds this text")
    parser.add_argument(
        "--set", action="append", default=[], help="an option for every variant, key=value"
    )
    parser.add_argument("--folder", type=Path, default=Path("ppo-learning"))
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    _private_and_quiet()
    seeds = (
        [arguments.seed] if arguments.seed is not None else [0] if arguments.quick else [0, 1, 2]
    )
    common = {key: json.loads(value) for key, value in (text.split("=") for text in arguments.set)}
    chosen = {
        name: options
        for name, options in variants(arguments.quick).items()
        if not arguments.only or arguments.only in name
    }
    found: dict[str, dict[int, dict[str, float]]] = {}
    for seed in seeds:
        for name, options in chosen.items():
            figures = cell(arguments.folder, seed, name, {**options, **common})
            found.setdefault(name, {})[seed] = figures
            print(f"seed {seed}, {name}: {json.dumps(figures)}", flush=True)
    print_table(found)
    if arguments.json:
        write_json(
            arguments.json, {n: {str(s): f for s, f in by.items()} for n, by in found.items()}
        )
    if names := missed(found):
        print("Missed:\n" + "\n".join(names), file=sys.stderr)
        sys.exit(1)


def missed(found: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    """The goals that a promised variant did not reach, one line each."""
    return [
        f"{name}, seed {seed}: {goal} is {figures[goal]:.3f}, not within {low} and {high}"
        for name in PROMISED
        for seed, figures in found.get(name, {}).items()
        for goal, (low, high) in GOALS.items()
        if not low <= figures[goal] <= high
    ]


def cell(folder: Path, seed: int, name: str, options: dict[str, Any]) -> dict[str, float]:
    """The figures of one variant and seed, trained where they are not in `folder` yet."""
    place = folder / f"seed-{seed}"
    done = place / "cells" / f"{name}.json"
    config = demo_config(seed)
    ppo = type(config.ppo).model_validate({**config.ppo.model_dump(), **options})
    layers = "upper-half" if ppo.lora_layers == "upper-half" else "all"
    asked = ppo.model_dump(mode="json")
    if done.exists() and (kept := read_json(done))["options"] == asked:
        return kept["figures"]
    with _progress() as progress:
        base, prompts, reward = _prepared(place, seed, layers, progress)
        out = place / f"{name} {int(time.time())}"
        files = {
            "model": base,
            "prompts": prompts,
            "reward_model": reward,
        }
        settings = config.model_copy(update={"ppo": ppo})
        started = time.perf_counter()
        pipeline.train_ppo(Job(settings, None, files, out / "ppo", progress))
        seconds = time.perf_counter() - started
        files = {"model": base, "prompts": prompts, "policy": out / "ppo"}
        after = pipeline.evaluate_toxicity(Job(settings, None, files, out / "evaluate", progress))
    rows = read_rows(out / "ppo" / "metrics.jsonl")
    explained = [row["explained_variance"] for row in rows[-LAST:] if "explained_variance" in row]
    figures = {
        "reduction": after["toxicity_reduction"],
        "perplexity": after["perplexity_after"] / after["perplexity_before"] - 1,
        "distinct": after["distinct_after"] / after["distinct_before"],
        "kl": after["kl"],
        "explained_variance": statistics.mean(explained),
        "seconds": seconds,
    }
    write_json(done, {"options": asked, "figures": figures})
    return figures


def _prepared(place: Path, seed: int, layers: str, progress: Any) -> tuple[str, Path, Path]:
    """The demo's base and prompts, and a reward model with adapters on those layers."""
    config: Config = demo_config(seed)
    workspace_folder = place / "workspace"
    if not workspace_folder.exists():
        with Workspace.create(workspace_folder, config) as workspace:
            job = Job(config, workspace, progress=progress)
            workspace.store.add_prompts(demo_prompts(TRAIN_PROMPTS, HELD_OUT_PROMPTS, seed))
            pipeline.sample(job)
            pipeline.simulate(job)
            pipeline.consensus(job)
            pipeline.export(Job(config, workspace, out=place / "pairs.jsonl"), "pairs")
            pipeline.export(Job(config, workspace, out=place / "prompts.jsonl"), "prompts")
    base = Job(config, progress=progress).base_model()
    folder = place / f"reward-{layers}"
    if not (folder / "reward.json").exists():
        reward = config.reward.model_copy(update={"lora_layers": layers})
        files = {"model": base, "pairs": place / "pairs.jsonl"}
        settings = config.model_copy(update={"reward": reward})
        pipeline.train_reward(Job(settings, None, files, folder, progress))
    return base, place / "prompts.jsonl", folder


def print_table(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """Means over the seeds, with the reductions of each."""
    print(
        "| variant | reduction (each seed) | perplexity | distinct-2 | KL | explained variance | seconds |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, by_seed in found.items():
        rows = list(by_seed.values())
        mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        each = ", ".join(f"{row['reduction']:.3f}" for row in rows)
        print(
            f"| {name} | {mean['reduction']:.3f} ({each}) | {mean['perplexity']:+.1%} | {mean['distinct']:.2f} "
            f"| {mean['kl']:.1f} | {mean['explained_variance']:.2f} | {mean['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
