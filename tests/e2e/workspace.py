"""A small workspace for the tests of the user interface: prompts, tasks, one account a role, and a few runs."""

import json
from pathlib import Path

import numpy as np

from alignment.evaluation.evaluation import evaluate
from alignment.evaluation.figures import Settings
from alignment.evaluation.material import Material, ModelCompletions, ScorerCard, save_material
from alignment.evaluation.report import write_reports
from alignment.feedback import people, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.files import write_json
from alignment.records import Completion, Prompt

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "${window.hacked = 1}",
    "{{7*7}}",
    "C:\\temp\\new \\u0041 ` \\",
)
RUN = "evaluate-2"  # of `add_evaluation`
REPORT = (
    "<!doctype html><title>Report</title><h1 id='finding'>Toxicity fell by half</h1>"
    "<script>top.document.title = 'hacked'</script>"
)


def password(name: str) -> str:
    return f"password of {name}"


def make_workspace(folder: Path, prompts: list[Prompt], texts: dict[str, tuple[str, ...]]) -> Path:
    """A workspace where `texts[prompt_id]` are the completions of each prompt; a later prompt is served first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "concord.yaml").write_text(
        "base_model: demo\nlabelling: {practice_tasks: 0, gold_rate: 0, repeat_rate: 0}\n"
    )
    store = Store(folder / "feedback.db", create=True)
    store.add_prompts(prompts)
    store.add_tasks(
        [
            Completion(f"{p}-{i}", p, text)
            for p, group in texts.items()
            for i, text in enumerate(group)
        ],
        overlap=2,
    )
    for role in people.ROLES:
        people.add_account(store, role, role, password(role))
    people.add_account(store, "other", "labeler", password("other"))
    add_runs(store, folder)
    store.close()
    return folder


def add_runs(store: Store, folder: Path) -> None:
    """A consensus run, a PPO run with curves, an evaluation with a report, and one that failed."""

    def run_folder(run_id: str) -> Path:
        path = folder / "runs" / run_id
        path.mkdir(parents=True)
        return path

    labelers = [
        {"labeler_id": "careful-1", "reliability": 1.1, "low": 0.9, "high": 1.3, "flagged": False},
        {"labeler_id": "reversed-1", "reliability": -0.8, "low": -1.0, "high": -0.6, "kind": "reversed",
         "flagged": True, "evidence": "ranks in reverse"},
    ]  # fmt: skip
    (run_folder("consensus-1") / "labelers.json").write_text(json.dumps(labelers))
    rows = [{"iteration": i, "reward": 0.1 * i, "kl": 0.2 * i} for i in range(5)]
    metrics = run_folder("ppo-1") / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 5, "rew')
    evaluation = run_folder("evaluate-1")
    (evaluation / "report.html").write_text(REPORT)
    (evaluation / "comparison.json").write_text(json.dumps({"verdict": "better"}))
    runs.save_run(store, Run("consensus-1", "consensus", {"seed": 0}, "finished"))
    where = str(metrics.parent)
    ppo = Run("ppo-1", "ppo", {"kl_coef": 0.15}, "running", metrics={"kl": 0.8}, folder=where)
    runs.save_run(store, ppo)
    failed = f"It failed: {HOSTILE[0]} {HOSTILE[1]}"
    runs.save_run(store, Run("reward-1", "reward", {"seed": 0}, "failed", message=failed))
    runs.save_run(store, Run("evaluate-1", "evaluate", {"seed": 0}, "finished"))


PLAIN = {
    "kind": ("You are welcome.", "No.", "Of course, with pleasure!", "Go away."),
    "hostile": HOSTILE,
}
PROMPTS = [
    Prompt("kind", [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]),
    Prompt("hostile", "Say <b>hello</b> ${1+1} {{7*7}}"),
]


def add_evaluation(folder, store, count=12, per_prompt=2, run_id=RUN):
    """A finished evaluation of three models by two scorers, in the workspace."""
    prompts = tuple(
        Prompt(f"p{i}", f"Prompt {i}", "held-out", "insults" if i % 3 else "jokes")
        for i in range(count)
    )
    rng = np.random.default_rng(0)
    models, scores = [], []
    for name, high in (("base", 1.0), ("step-5", 0.6), ("aligned", 0.3)):
        rows = [(i, k) for i in range(count) for k in range(per_prompt)]
        said = [
            Completion(f"{name}{i}-{k}", f"p{i}", f"{name} says <b>{i}</b>\u202e") for i, k in rows
        ]
        models.append(ModelCompletions(name, said))
        scores.append(rng.uniform(0, high, len(rows)).round(3))
    cards = (ScorerCard("reader", "Much."), ScorerCard("second", "More."))
    by = {"reader": scores, "second": [s * 0.9 for s in scores]}
    spans = {"base0-0": ((0, 4),)}
    material = Material(prompts, tuple(models), cards, by, spans)
    found = evaluate(material, Settings(resamples=200, permutations=200))
    place = folder / "runs" / run_id
    place.mkdir(parents=True)
    save_material(place, material)
    write_json(place / "comparison.json", found.to_json())
    write_reports(place, found, material)
    runs.save_run(store, Run(run_id, "evaluate", {"seed": 0}, "finished", folder=str(place)))
    return found, material
