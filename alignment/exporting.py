"""`concord export model`: the policy with its model card, filled in from what the workspace knows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.feedback import audit, people, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.files import read_json, whole_folder, write_text
from alignment.workspace import BEST_FOLDER, RUN_FILE, versions

CARD_FILE = "README.md"
DTYPES = ("fp32", "fp16", "bf16")


def export_model(job: Any, merge: bool, dtype: str = "fp32", best: bool = False) -> dict[str, Any]:
    """Write the policy to the folder `--out`: its adapter, or with `merge` one model; either with tokenizer and card.

    `best`: the run's best policy on the held-out prompts, instead of its last.

    Raises `InputError` where the folder is not empty, `ModelError` where base and adapter do not fit.
    """
    from alignment.models.merging import adapter_base, save_adapter, save_merged

    if dtype not in DTYPES:
        raise InputError(f"The dtype {dtype!r} is not known; choose {', '.join(DTYPES)}.")
    out = job.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already. Choose another folder; nothing was overwritten.")
    policy = job.policy(best)
    recorded = adapter_base(policy)
    base = str(job.files.get("model") or recorded)
    with whole_folder(out) as folder:
        if merge:
            save_merged(base, policy, folder, dtype)
        else:
            save_adapter(policy, folder)
        store = job.workspace.store if job.workspace else None
        write_text(
            folder / CARD_FILE, policy_card(store, policy, base, merged=merge, name=out.name)
        )
    if store is not None:
        audit.record(store, job.by, "export model", policy.name, merged=merge, folder=str(out))
    return {
        "what": "merged model" if merge else "adapter",
        "folder": str(out),
        "policy": str(policy),
        "base_model": base,
        "card": str(out / CARD_FILE),
    }


def write_card(store: Store | None, policy: Path, base: str) -> None:
    """Write the card of a policy that has just been trained into its own folder, in place of PEFT's empty one."""
    write_text(policy / CARD_FILE, policy_card(store, policy, base, merged=False, name=policy.name))


def policy_card(store: Store | None, policy: Path, base: str, *, merged: bool, name: str) -> str:
    """The model card of a policy folder, from its own files and, in a workspace, from the runs behind it.

    Follows the policy back: the PPO run that wrote it (a best policy lies in that run's folder), the reward run that it
    names, the last consensus before that, and the newest evaluation of this very policy.
    """
    from alignment.evaluation.model_card import model_card

    best = policy.name == BEST_FOLDER and (policy.parent / RUN_FILE).is_file()
    ppo = _json((policy.parent if best else policy) / RUN_FILE)
    about = (ppo.get("metrics") or {}) if best else _json(policy / "policy.json")
    reward_folder = (ppo.get("inputs") or {}).get("reward_model") or about.get("reward_model")
    reward = _json(Path(reward_folder) / RUN_FILE) if reward_folder else {}
    known = runs.runs(store) if store else []
    consensus = _before(known, "consensus", reward)
    evaluation = _of_policy(known, policy)
    reviews = runs.reviews(store, evaluation.run_id) if store and evaluation else []
    stages = {"ppo": ppo, "reward": reward}
    named = {stage: run["run_id"] for stage, run in stages.items() if run.get("run_id")}
    named |= {run.stage: run.run_id for run in (consensus, evaluation) if run}
    return model_card(
        name,
        base,
        merged=merged,
        data=_data(store, consensus),
        consensus=consensus.metrics if consensus else None,
        reward=reward.get("metrics"),
        ppo=about or ppo.get("metrics"),
        best=best,
        ppo_config=about.get("config") or ppo.get("config"),
        evaluation=evaluation.metrics if evaluation else None,
        reviews=[{"verdict": r.verdict, "comment": r.comment} for r in reviews],
        runs=named,
        versions=ppo.get("versions") or versions(),
    )


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _before(known: Iterable[Run], stage: str, run: dict[str, Any]) -> Run | None:
    """The newest finished run of a stage that ended before `run` began: `known` is newest first."""
    started = run.get("started")
    if not started:
        return None
    earlier = (r for r in known if r.stage == stage and r.status == "finished")
    return next((r for r in earlier if r.ended and r.ended <= started), None)


def _of_policy(known: Iterable[Run], policy: Path) -> Run | None:
    """The newest finished evaluation that this policy took part in as the one to judge."""
    for run in known:
        if run.stage == "evaluate" and run.status == "finished":
            models = list((run.inputs.get("models") or {}).values())
            judged = run.inputs.get("policy") or (models[-1] if models else None)
            if judged and Path(judged).resolve() == policy.resolve():
                return run
    return None


def _data(store: Store | None, consensus: Run | None) -> dict[str, Any]:
    """Counts of what people and simulations gave; rankings and labelers are those that the consensus read."""
    if store is None:
        return {}
    prompts = store.prompts()
    counts: dict[str, Any] = {
        "train_prompts": sum(p.split == "train" for p in prompts),
        "held_out_prompts": sum(p.split == "held-out" for p in prompts),
        "completions": len(store.completions()),
    }
    if consensus is None:
        return counts
    read = set(consensus.inputs.get("labelers", []))
    simulated = {r["labeler_id"] for r in people.labelers(store) if r["simulated"]}
    return counts | {
        "rankings": consensus.inputs.get("rankings"),
        "people": len(read - simulated),
        "simulated": len(read & simulated),
    }
