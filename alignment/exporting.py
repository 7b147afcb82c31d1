"""`concord export model`: the policy with its model card, filled in from what the workspace knows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.evaluation.reward_evidence import reward_folder
from alignment.evaluation.trained_by import POLICY_FILE, record_of, run_places
from alignment.feedback import audit, people, run_queue, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.files import whole_folder, write_text
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
    if dtype != "fp32" and not merge:
        raise InputError("--dtype is of a merged model: give --merge too, or leave it out.")
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
    """The model card of a policy folder, from its own files, the runs behind it and its newest evaluation."""
    from alignment.evaluation.model_card import model_card

    best = policy.name == BEST_FOLDER and (policy.parent / RUN_FILE).is_file()
    behind = runs_behind(store, policy)
    ppo, reward, consensus = (behind.get(stage, {}) for stage in ("ppo", "reward", "consensus"))
    about = (ppo.get("metrics") or {}) if best else record_of(policy / POLICY_FILE)
    known = runs.runs(store, "evaluate") if store else []
    evaluation = _of_policy(known, policy)
    reviews = runs.reviews(store, evaluation.run_id) if store and evaluation else []
    named = {stage: run["run_id"] for stage, run in behind.items()}
    named |= {"evaluate": evaluation.run_id} if evaluation else {}
    return model_card(
        name,
        base,
        merged=merged,
        data=_data(store, consensus),
        consensus=consensus.get("metrics"),
        reward=reward.get("metrics"),
        ppo=about or ppo.get("metrics"),
        best=best,
        ppo_config=about.get("config") or ppo.get("config"),
        evaluation=evaluation.metrics if evaluation else None,
        reviews=[{"verdict": r.verdict, "comment": r.comment} for r in reviews],
        runs=named,
        versions=ppo.get("versions") or versions(),
    )


def runs_behind(store: Store | None, policy: Path) -> dict[str, dict[str, Any]]:
    """Stage -> the run that made a policy, as `run.json` has it: `ppo`, `reward`, `consensus`, each where it is known.

    The PPO run in whose folder the policy lies (its best one and its checkpoints lie below), the reward run that it
    names, and the consensus whose pairs that one read: by its request, else the last that ended before it began.
    """
    known = runs.runs(store) if store else []
    ppo = next((r for place in run_places(policy) if (r := _run_in(known, "ppo", place))), None)
    named = ppo["inputs"].get("reward_model") if ppo else None
    place = Path(named) if named else reward_folder(policy)
    reward = _run_in(known, "reward", place) if place else None
    consensus = _consensus_of(store, known, reward) if store and reward else None
    found = {"ppo": ppo, "reward": reward, "consensus": consensus}
    return {stage: run for stage, run in found.items() if run}


def _run_in(known: Iterable[Run], stage: str, folder: Path) -> dict[str, Any] | None:
    """The run of a stage that has this folder: of the workspace, else what `run.json` says of another."""
    place = folder.resolve()
    for run in known:
        if run.stage == stage and run.folder and Path(run.folder).resolve() == place:
            return run.to_json()
    row = record_of(place / RUN_FILE)
    if row.get("stage") != stage or "run_id" not in row:
        return None
    return {"config": {}, "inputs": {}, "metrics": {}, **row, "folder": str(place)}


def _consensus_of(
    store: Store, known: Iterable[Run], reward: dict[str, Any]
) -> dict[str, Any] | None:
    """The consensus whose pairs a reward run read; `known` is newest first."""
    request = run_queue.request_of(store, reward["run_id"])
    if request and "pairs" in request.files:
        return _run_in(known, "consensus", Path(request.files["pairs"]).parent)
    earlier = (r for r in known if r.stage == "consensus" and r.status == "finished" and r.ended)
    started = reward.get("started") or ""
    return next((r.to_json() for r in earlier if str(r.ended) <= started), None)


def _of_policy(known: Iterable[Run], policy: Path) -> Run | None:
    """The newest finished evaluation that this policy took part in as the one to judge."""
    for run in known:
        if run.status == "finished":
            models = list((run.inputs.get("models") or {}).values())
            judged = run.inputs.get("policy") or (models[-1] if models else None)
            if judged and Path(judged).resolve() == policy.resolve():
                return run
    return None


def _data(store: Store | None, consensus: dict[str, Any]) -> dict[str, Any]:
    """Counts of what people and simulations gave; rankings and labelers are those that the consensus read."""
    if store is None:
        return {}
    prompts = store.prompts()
    counts: dict[str, Any] = {
        "train_prompts": sum(p.split == "train" for p in prompts),
        "held_out_prompts": sum(p.split == "held-out" for p in prompts),
        "completions": len(store.completions()),
    }
    if not consensus:
        return counts
    read = set(consensus["inputs"].get("labelers", []))
    simulated = {r["labeler_id"] for r in people.labelers(store) if r["simulated"]}
    return counts | {
        "rankings": consensus["inputs"].get("rankings"),
        "people": len(read - simulated),
        "simulated": len(read & simulated),
    }
