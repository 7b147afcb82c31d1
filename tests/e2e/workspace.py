"""A small workspace for the tests of the user interface: prompts, tasks, one account a role, and a few runs."""

import json
from pathlib import Path

from alignment.feedback import people, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "${window.hacked = 1}",
    "{{7*7}}",
    "C:\\temp\\new \\u0041 ` \\",
)
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
