"""`concord demo`: the whole loop on the demo language, from a fresh workspace to a finished comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment import pipeline
from alignment.config import Config
from alignment.demo_base import QUALITY_FILE
from alignment.errors import InputError
from alignment.feedback import people
from alignment.files import read_json, write_json, write_text
from alignment.models.demo_language import demo_prompts, sample_corpus
from alignment.pipeline import Job
from alignment.progress import Progress, silent
from alignment.workspace import Workspace

DEMO_FILE, ACCOUNTS_FILE = "demo.json", "demo_accounts.txt"
TRAIN_PROMPTS, HELD_OUT_PROMPTS, FRESH_PROMPTS = 160, 64, 24
SECOND_JUDGE, JUDGE_TEXTS = "demo-tones", 4000
_ACCOUNTS = {"labeler": "labeler", "engineer": "engineer", "reviewer": "reviewer"}


def demo_config(seed: int) -> Config:
    """The defaults, with one seed for every stage and what suits a model of 2M parameters."""
    generation = {"seed": seed, "max_new_tokens": 32, "batch_size": 64}
    tree = {
        "sample": generation,
        "simulate": {"seed": seed},
        "consensus": {"seed": seed},
        "reward": {
            "seed": seed,
            "num_train_epochs": 6,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "lora_rank": 8,
            "lora_alpha": 16,
        },
        "ppo": {
            "seed": seed,
            "max_iterations": 30,
            "batch_size": 96,
            "response_length": 32,
            "num_ppo_epochs": 1,
            "num_mini_batches": 4,
            "per_device_train_batch_size": 24,
            "learning_rate": 2e-3,
            "critic_learning_rate": 6e-3,
            "kl_coef": 0.11,
            "reward_clip": 1.0,  # what is kind enough earns no more: fluency and variety are kept
            "cliprange_value": 1.0,
            "lam": 0.85,
            "eval_every": 5,
        },
        "evaluate": generation,
    }
    return Config.model_validate(tree)


def run_demo(
    folder: Path,
    seed: int = 0,
    progress: Progress = silent,
    *,
    config: Config | None = None,
    sizes: tuple[int, int, int] = (TRAIN_PROMPTS, HELD_OUT_PROMPTS, FRESH_PROMPTS),
) -> dict[str, Any]:
    """Run every stage in `folder` and return the figures of the demo; a finished demo there is returned as it is.

    `sizes`: prompts to train on, held-out prompts, and prompts whose fresh completions await a person. Raises
    `InputError` where the folder holds something else than a finished demo of this seed.
    """
    done = folder / DEMO_FILE
    if done.exists() and read_json(done)["seed"] == seed:
        return read_json(done)
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        figures = work()
        seconds[stage] = round(time.perf_counter() - started, 1)
        return figures

    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and holds no finished demo of seed {seed}. Choose another folder with --workspace, "
            "or remove that one."
        )
    config = _with_second_judge(config or demo_config(seed), folder.resolve() / SECOND_JUDGE)
    with Workspace.create(folder, config) as workspace:
        job = Job(config, workspace, progress=progress)
        base = timed("base_model", lambda: {"folder": job.base_model()})
        workspace.store.add_prompts(demo_prompts(sizes[0], sizes[1], seed))
        timed("sample", lambda: pipeline.sample(job))
        timed("simulate", lambda: pipeline.simulate(job))
        consensus = timed("consensus", lambda: pipeline.consensus(job))
        reward = timed("reward", lambda: pipeline.train_reward(job))
        ppo = timed("ppo", lambda: pipeline.train_ppo(job))
        _train_second_judge(folder / SECOND_JUDGE)
        evaluation = timed("evaluate", lambda: pipeline.evaluate_toxicity(job))
        timed("fresh_tasks", lambda: _fresh_tasks(job, sizes[2]))
        _add_accounts(workspace)
    figures = {
        **evaluation,
        **_quality(Path(base["folder"])),
        "reward_accuracy": reward["accuracy"],
        "labeler_agreement": consensus["agreement_with_consensus"],
        "flagged_labelers": consensus["flagged"],
        "ppo_kl": ppo["kl"],
        "explained_variance": ppo["explained_variance"],
        "stop_reason": ppo["stop_reason"],
        "iterations": ppo["iterations"],
        "seed": seed,
        "workspace": str(folder),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }
    write_json(done, figures)
    return figures


def _with_second_judge(config: Config, scorer: Path) -> Config:
    """The configuration with one more scorer: what a single one finds may be its own blind spot."""
    more = [*config.evaluate.more_scorers, str(scorer)]
    evaluate = config.evaluate.model_copy(update={"more_scorers": more})
    return config.model_copy(update={"evaluate": evaluate})


def _train_second_judge(folder: Path) -> None:
    """A linear scorer of the tones of the demo language, which neither labelers nor reward model have seen."""
    from alignment.evaluation import linear_scorer

    said = [utterance for _, utterance in sample_corpus("train", JUDGE_TEXTS, seed=7)]
    rude = [utterance.tone == "rude" for utterance in said]
    texts = [utterance.text for utterance in said]
    linear_scorer.save(linear_scorer.train(texts, rude, SECOND_JUDGE), folder)


def _quality(base: Path) -> dict[str, float]:
    """How well the base model speaks the demo language; nothing for a base of another kind."""
    if not (base / QUALITY_FILE).exists():
        return {}
    quality = read_json(base / QUALITY_FILE)
    return {"base_loss": quality["loss"], "language_entropy": quality["entropy"]}


def _fresh_tasks(job: Job, count: int) -> dict[str, Any]:
    """Completions of the aligned policy, as the next round's tasks for people."""
    workspace = job.workspace
    assert workspace is not None
    prompts = workspace.store.prompts("train")[:count]
    path = workspace.folder / "fresh_prompts.jsonl"
    pipeline.write_jsonl(path, [p.to_json() for p in prompts])
    return pipeline.sample(replace(job, files={"prompts": path, "policy": job.policy()}))


def _add_accounts(workspace: Workspace) -> None:
    lines = [
        f"{name:10} {people.add_account(workspace.store, name, role)}"
        for name, role in _ACCOUNTS.items()
    ]
    path = workspace.folder / ACCOUNTS_FILE
    write_text(path, "\n".join(lines) + "\n")
    path.chmod(0o600)
