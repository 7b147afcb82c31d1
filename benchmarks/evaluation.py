"""Speed and statistics of evaluation, and the demo by a second scorer: `make bench-evaluation`.

- `speed`: scoring 100,000 short texts by each offline scorer; figures and the Review page on 20,000 completions.
- `page`: seconds until the Review page stands in a real Chromium, with 20,000 completions stored.
- `coverage`: how often 95% intervals hold the true difference, and how often equal models are called different.
- `demo`: the demo for each seed by both of its scorers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alignment import evaluation_stage
from alignment.cli import _private_and_quiet, _progress
from alignment.demo import JUDGE_TEXTS, run_demo
from alignment.evaluation import linear_scorer
from alignment.evaluation.bootstrap import permutation_test
from alignment.evaluation.evaluation import evaluate, read_evaluation
from alignment.evaluation.figures import Settings
from alignment.evaluation.material import Material, ModelCompletions, ScorerCard, save_material
from alignment.evaluation.report import write_reports
from alignment.evaluation.toxicity import load_scorer
from alignment.feedback import runs
from alignment.files import write_json
from alignment.models.demo_language import sample_corpus
from alignment.records import Completion, Prompt
from alignment.workspace import Workspace
from benchmarks.evaluation_page import RUN, openings

TEXTS, PROMPTS, PER_PROMPT = 100_000, 2500, 4
PARTS = ("speed", "coverage", "page", "demo")


def made_up(prompts: int, per_prompt: int, shift: float, seed: int) -> Material:
    """Two models with skewed scores that depend on the prompt; the second's are lower by `shift` on average."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.beta(0.6, 1.4, prompts), per_prompt)
    models, scores = [], []
    for name, change in (("before", 0.0), ("after", shift)):
        said = [
            Completion(f"{name}{i}-{k}", f"p{i}", f"text {i} {k}", True, 8)
            for i in range(prompts)
            for k in range(per_prompt)
        ]
        models.append(ModelCompletions(name, said))
        scores.append(level * (1 - change) * rng.uniform(0.5, 1.0, len(level)))
    asked = tuple(Prompt(f"p{i}", f"Prompt {i}", "held-out") for i in range(prompts))
    card = ScorerCard("made-up", "All of it.")
    return Material(asked, tuple(models), (card,), {"made-up": scores})


def speed() -> dict[str, float]:
    """Seconds on the wall of each step."""
    found: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started = time.perf_counter()
        result = work()
        found[name] = round(time.perf_counter() - started, 2)
        return result

    texts = [u.text + f" {i}" for i, (_, u) in enumerate(sample_corpus("train", TEXTS, seed=1))]
    profanity = load_scorer("profanity-check")
    profanity(texts[:10])
    timed(f"profanity-check, {TEXTS:,} texts", lambda: profanity(texts))
    said = [u for _, u in sample_corpus("train", JUDGE_TEXTS, seed=7)]
    scorer = linear_scorer.train([u.text for u in said], [u.tone == "rude" for u in said], "tones")
    timed(f"linear scorer, {TEXTS:,} texts", lambda: scorer(texts))
    with tempfile.TemporaryDirectory() as folder:
        material = made_up(PROMPTS, PER_PROMPT, 0.3, 0)
        result = timed("all figures of 20,000 completions", lambda: evaluate(material))
        page = _review_page(Path(folder) / "workspace", result, material)
        found["Review page with 20,000 completions, first answer"] = page[0]
        found["its texts, first answer"] = page[1]
    return found


def _review_page(folder: Path, found: Any, material: Material) -> tuple[float, float]:
    """Seconds until the page's frame and report are there, and until the texts are."""
    from alignment.config import Config
    from ui import evaluations
    from ui.review_page import report_frame

    with Workspace.create(folder, Config()) as workspace:
        run = _stored(workspace, found, material)
        place = Path(run.folder or "")
        started = time.perf_counter()
        report_frame(run, folder)
        evaluations.runs_table([run], run, workspace.store)
        (place / "report.html").read_bytes()
        opened = time.perf_counter()
        evaluations.texts(place, None, None, "", "", "", 1)
        return round(opened - started, 2), round(time.perf_counter() - opened, 2)


def _stored(workspace: Workspace, found: Any, material: Material) -> runs.Run:
    """The evaluation as a finished run of the workspace."""
    place = workspace.folder / "runs" / RUN
    place.mkdir(parents=True)
    save_material(place, material)
    write_json(place / "comparison.json", found.to_json())
    write_reports(place, found, material)
    figures = evaluation_stage.evaluation_figures(found)
    run = runs.Run(RUN, "evaluate", {}, "finished", metrics=figures, folder=str(place))
    runs.save_run(workspace.store, run)
    return run


def page() -> dict[str, Any]:
    """The Review page in a browser, with 20,000 completions stored."""
    material = made_up(PROMPTS, PER_PROMPT, 0.3, 0)
    found = evaluate(material)
    with tempfile.TemporaryDirectory() as folder:
        return openings(
            Path(folder) / "workspace", lambda workspace: _stored(workspace, found, material)
        )


def coverage(trials: int) -> dict[str, float]:
    """Shares of simulated evaluations, over prompts drawn anew each time."""
    settings = Settings(resamples=500, permutations=500)
    truth = 0.75 * 0.3 * 0.3  # mean of the levels, of the noise, and the share taken away
    found = {}
    for prompts in (10, 40, 160):
        inside = different = 0
        for trial in range(trials):
            change = evaluate(made_up(prompts, 4, 0.3, trial), settings).pairs["after"]
            interval = change.scorers["made-up"].difference
            inside += interval.low <= -truth <= interval.high
            equal = evaluate(made_up(prompts, 4, 0.0, trial), settings).verdict()
            different += equal in ("better", "worse")
        found[f"{prompts} prompts: interval holds the truth"] = inside / trials
        found[f"{prompts} prompts: equal models called different"] = different / trials
    rng = np.random.default_rng(0)

    def sums() -> np.ndarray:
        return np.stack([rng.beta(0.6, 1.4, 30), np.ones(30)], axis=1)

    hits = np.mean([permutation_test(sums(), sums(), 999, s) < 0.05 for s in range(2000)])
    found["permutation test alone, 30 prompts: below 0.05"] = float(hits)
    return found


def demo(seeds: list[int]) -> dict[str, Any]:
    """What the demo's evaluation found by each of its two scorers."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, _progress() as progress:
        for seed in seeds:
            run = run_demo(Path(folder) / f"seed-{seed}", seed, progress)
            result, _ = read_evaluation(Path(run["folder"]))
            row = result.to_json()
            found[f"seed {seed}"] = {
                "verdict": row["verdict"],
                **row["paired"],
                "models": {
                    name: {
                        key: model[key] for key in ("kl", "perplexity", "distinct_2", "self_bleu")
                    }
                    for name, model in row["models"].items()
                },
            }
    return found


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=PARTS, help="speed and coverage by default")
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations, one seed")
    parser.add_argument("--seed", type=int, help="only this seed of the demo")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    _private_and_quiet()
    seeds = (
        [arguments.seed] if arguments.seed is not None else [0] if arguments.quick else [0, 1, 2]
    )
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": speed,
        "page": page,
        "coverage": lambda: coverage(40 if arguments.quick else 400),
        "demo": lambda: demo(seeds),
    }
    found = {name: parts[name]() for name in arguments.what or PARTS[:2]}
    print(json.dumps(found, indent=2))
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
