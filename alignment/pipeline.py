"""One function per stage: read what it needs, call the floors below, write the results, record the run.

A stage reads from a workspace or from plain files; a file that is named wins over the workspace. Each function
returns the figures that the command line prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment import labelling
from alignment.config import Config
from alignment.errors import InputError, nearest
from alignment.exporting import write_card
from alignment.feedback import audit, people, run_queue, runs, snapshot
from alignment.feedback.consensus import Consensus, fit_consensus
from alignment.feedback.courtesy import courtesy
from alignment.feedback.known_orders import KnownOrder, by_prompt
from alignment.feedback.labeler_votes import labeler_evidence
from alignment.feedback.pairs import preference_pairs, split_by_prompt
from alignment.feedback.people import Labeler
from alignment.feedback.run_queue import Request
from alignment.feedback.simulation import simulate_rankings
from alignment.feedback.snapshot import Snapshot
from alignment.files import read_json, read_jsonl, write_json, write_jsonl
from alignment.progress import Progress, silent
from alignment.records import (
    Completion,
    LabelerEvidence,
    PreferencePair,
    Prompt,
    PromptText,
    Ranking,
)
from alignment.training import launch as launcher
from alignment.workspace import (
    BEST_FOLDER,
    RunFolder,
    Workspace,
    recorded_run,
)

PROMPTS_FILE = "prompts.jsonl"  # in the folder of a PPO run


@dataclass(frozen=True)
class Job:
    """What a stage works on: a configuration, a workspace or files, and where results go."""

    config: Config
    workspace: Workspace | None = None
    files: Mapping[str, Path | str | None] = field(default_factory=dict)
    out: Path | None = None
    progress: Progress = silent
    run_id: str | None = None  # a run that waits in the queue, or goes on
    resume: bool = False
    by: str = ""
    launch: Mapping[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path | None:
        """The path given for `--name`, or None."""
        value = self.files.get(name)
        return None if value is None else Path(value)

    def settled(self, option: str, path: Path) -> Job:
        """This job with what it reads named, so that it is resumed and cloned on the same, whatever comes after."""
        return replace(self, files={**self.files, option: path})

    def run(self, stage: str, config: Any, inputs: dict[str, Any]) -> Any:
        """Record a run of this job."""
        request = Request(
            self.run_id or "",
            stage,
            self.config.model_dump(mode="json"),
            {name: _absolute(value) for name, value in self.files.items() if value is not None},
            dict(self.launch),
            created_by=self.by,
        )
        return recorded_run(
            stage,
            config,
            inputs,
            workspace=self.workspace,
            out=self.out,
            run_id=self.run_id,
            request=request,
        )

    def prompts(self, split: str = "all") -> list[Prompt]:
        """Prompts from `--prompts` or the workspace; `InputError` where there are none of that split."""
        path = self.file("prompts")
        if path is not None:
            found = _distinct_ids(path, read_jsonl(path, Prompt.from_json))
        else:
            found = self._store("prompts").prompts()
        chosen = [p for p in found if split in ("all", p.split)]
        if not chosen:
            raise InputError(
                f"There are no {split if split != 'all' else ''} prompts. Import some with `concord prompts import "
                'FILE` or give --prompts; the split of a prompt is its key "split" (train or held-out).'.replace(
                    "  ", " "
                )
            )
        return chosen

    def completions(self) -> dict[str, Completion]:
        """Completions by id, from `--completions` or the workspace."""
        path = self.file("completions")
        if path is None:
            found = self._store("completions").completions()
        else:
            found = _distinct_completions(path, read_jsonl(path, Completion.from_json))
        if not found:
            raise InputError("There are no completions yet. Run `concord sample` first.")
        return found

    def snapshot(self) -> Snapshot:
        """Rankings and known orders: those that were frozen when the run was asked for, or those of now.

        Rankings come from `--rankings` or the workspace. Known orders come from `--gold` or, with the workspace's
        rankings, from the workspace.
        """
        frozen, given, gold = self.file("snapshot"), self.file("rankings"), self.file("gold")
        if frozen is not None:
            return snapshot.read(frozen)
        if given is None:
            found = snapshot.take(self._store("rankings"))
        else:
            found = Snapshot(read_jsonl(given, Ranking.from_json), [])
        if gold is not None:
            found = replace(found, known_orders=read_jsonl(gold, KnownOrder.from_json))
        return found

    def pairs_file(self) -> Path:
        """The file of `--pairs`, or that of the workspace's latest consensus."""
        return self.file("pairs") or self._latest("consensus", "pairs.jsonl", "concord consensus")

    def pairs(self) -> list[PreferencePair]:
        """The preference pairs of `pairs_file`."""
        return read_jsonl(self.pairs_file(), PreferencePair.from_json)

    def base_model(self) -> str:
        """The base model of `--model` or of the configuration; the demo model is made where it is not yet."""
        name = str(self.files.get("model") or self.config.base_model)
        if name == "demo":
            from alignment.demo_base import ensure_demo_model

            return str(ensure_demo_model(self.progress))
        # A relative folder in concord.yaml is one of the workspace; what is trained on it finds it from anywhere.
        given = self.workspace is not None and "model" not in self.files
        folder = self.workspace.folder / name if given and self.workspace else Path(name)
        return str(folder.resolve()) if folder.is_dir() else name

    def reward_model(self) -> Path:
        """The folder of `--reward-model`, or of the workspace's latest reward run."""
        return self.file("reward_model") or self._latest("reward", ".", "concord train reward")

    def current_policy(self) -> Path | None:
        """The folder of the policy that was promoted last, from which the next round samples; None where none was."""
        promoted = run_queue.current_policy(self.workspace.store) if self.workspace else None
        if promoted is None:
            return None
        folder = Path(runs.run(self._store("policy"), promoted.run_id).folder or "")
        return best_policy(folder) if promoted.kind == "promote-best" else folder

    def policy(self, best: bool = False) -> Path:
        """The folder of `--policy`, or of the workspace's latest PPO run; with `best` of that run's best policy."""
        last = self.file("policy") or self._latest("ppo", ".", "concord train ppo")
        return best_policy(last) if best else last

    def _store(self, option: str) -> Any:
        if self.workspace is None:
            raise InputError(
                f"Give --{option} FILE, or work in a workspace (--workspace DIR, `concord init`)."
            )
        return self.workspace.store

    def _latest(self, stage: str, name: str, command: str) -> Path:
        option = {"consensus": "pairs", "reward": "reward-model", "ppo": "policy"}[stage]
        run = run_queue.latest_run(self._store(option), stage)
        if run is None or run.folder is None:
            raise InputError(
                f"There is no finished {stage} run in this workspace. Run `{command}`, or give --{option}."
            )
        return Path(run.folder) / name


def best_policy(folder: Path) -> Path:
    """The policy in a PPO run's folder that did best on the held-out prompts; `InputError` where none was kept."""
    if not (folder / BEST_FOLDER / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} keeps no best policy: PPO keeps one where there are held-out prompts to judge by. Take the last "
            "policy, or train with held-out prompts."
        )
    return folder / BEST_FOLDER


def _absolute(value: Path | str) -> str:
    """A path that holds wherever the run goes on; what is no path here, such as a hub id, as it is."""
    return str(Path(value).resolve()) if Path(value).exists() else str(value)


def _distinct_ids(path: Path, prompts: Sequence[Prompt]) -> list[Prompt]:
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        if seen.setdefault(prompt.prompt_id, prompt).prompt != prompt.prompt:
            raise InputError(
                f"{path}: the prompt id {prompt.prompt_id!r} stands for two different prompts."
            )
    return list(seen.values())


def _distinct_completions(path: Path, completions: Sequence[Completion]) -> dict[str, Completion]:
    seen: dict[str, Completion] = {}
    for completion in completions:
        if seen.setdefault(completion.completion_id, completion).text != completion.text:
            raise InputError(
                f"{path}: the completion id {completion.completion_id!r} stands for two different texts."
            )
    return seen


def import_prompts(job: Job) -> dict[str, Any]:
    """Append the prompts of `--prompts` to the workspace."""
    prompts, store = job.prompts(), job._store("prompts")
    figures = {
        "read": len(prompts),
        "added": store.add_prompts(prompts),
        "held_out": sum(p.split == "held-out" for p in prompts),
    }
    audit.record(store, job.by, "import prompts", **figures)
    return figures


def sample(job: Job) -> dict[str, Any]:
    """K completions of each prompt, and in a workspace one ranking task per prompt."""
    from alignment.models.loading import load_causal_lm, load_tokenizer
    from alignment.sampling import as_completions, sample_completions

    config, prompts = job.config.sample, job.prompts(job.config.sample.split)
    base = job.base_model()
    policy = job.file("policy") or job.current_policy()
    tokenizer = load_tokenizer(base)
    model = load_causal_lm(policy or base, job.config.base_precision)
    inputs = {"model": str(policy or base), "prompts": len(prompts)}
    with job.run("sample", config, inputs) as run:
        drawn = sample_completions(
            model,
            tokenizer,
            prompts,
            config,
            config.completions_per_prompt,
            distinct_attempts=config.distinct_attempts,
            progress=job.progress,
        )
        completions = as_completions(prompts, drawn, run.run_id)
        write_jsonl(run.folder / "completions.jsonl", [c.to_json() for c in completions])
        if job.workspace is not None:
            job.workspace.store.add_prompts(prompts)
            labelling.begin_round(
                job.workspace.store,
                completions,
                job.config.labelling.overlap,
                run.run_id,
                close_open_tasks=config.close_open_tasks,
            )
        repeated = sum(len(group) - len({g.text for g in group}) for group in drawn)
        run.metrics = {
            "prompts": len(prompts),
            "completions": len(completions),
            "repeated": repeated,
            "finished": sum(c.finished for c in completions) / len(completions),
            "mean_tokens": sum(c.tokens or 0 for c in completions) / len(completions),
            "model": inputs["model"],
        }
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics}


def simulate(job: Job) -> dict[str, Any]:
    """Let simulated labelers rank; they judge by `courtesy`, never by a scorer that reports."""
    config, completions = job.config.simulate, job.completions()
    groups = _groups(job, completions)
    utilities = {cid: courtesy(completions[cid].text) for ids in groups.values() for cid in ids}
    with job.run("simulate", config, {"prompts": len(groups)}) as run:
        pool, rankings = simulate_rankings(groups, utilities, config)
        write_jsonl(run.folder / "rankings.jsonl", [r.to_json() for r in rankings])
        write_json(run.folder / "simulated_labelers.json", [labeler.to_json() for labeler in pool])
        if job.workspace is not None:
            store = job.workspace.store
            named = [Labeler(one.labeler_id, one.labeler_id, True, one.kind) for one in pool]
            people.add_labelers(store, named)
            store.add_rankings(rankings, {t.prompt_id: t.task_id for t in store.tasks()})
        run.metrics = {"labelers": len(pool), "rankings": len(rankings), "prompts": len(groups)}
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics}


def _groups(job: Job, completions: Mapping[str, Completion]) -> dict[str, list[str]]:
    """Prompt id -> the completions to rank together: those of its newest task, or all of the file."""
    if job.workspace is not None and job.file("completions") is None:
        return {task.prompt_id: list(task.completion_ids) for task in job.workspace.store.tasks()}
    groups: dict[str, list[str]] = {}
    for completion in completions.values():
        groups.setdefault(completion.prompt_id, []).append(completion.completion_id)
    return groups


def consensus(job: Job) -> dict[str, Any]:
    """Combine the rankings; write pairs, labelers, prompts and summary."""
    config = job.config.consensus
    found, completions = job.snapshot(), job.completions()
    rankings, known = snapshot.counting(found.rankings, config.labelers), found.known_orders
    prompts = {p.prompt_id: p.prompt for p in job.prompts()}
    ids: dict[str, list[str]] = {}
    for completion in completions.values():
        ids.setdefault(completion.prompt_id, []).append(completion.completion_id)
    fitted: Consensus = fit_consensus(
        rankings,
        ids,
        method=config.method,
        gold=by_prompt(known, "gold"),
        adjudicated=by_prompt(known, "adjudication"),
        seed=config.seed,
    )
    texts = {c.completion_id: c.text for c in completions.values()}
    pairs = preference_pairs(
        fitted,
        prompts,
        texts,
        min_confidence=config.min_confidence,
        max_pairs_per_prompt=config.max_pairs_per_prompt,
        max_none_acceptable=config.max_none_acceptable,
        keep_ties=config.keep_ties,
    )
    inputs = {
        "rankings": len(rankings),
        "simulated_rankings": sum(r.simulated for r in rankings),
        "labelers": sorted({r.labeler_id for r in rankings}),
        "known_orders": [order.to_json() for order in known],
    }
    with job.run("consensus", config, inputs) as run:
        if not snapshot.is_in(run.folder):
            snapshot.write(found, run.folder)
        labelers = [labeler.to_json() for labeler in fitted.labelers]
        write_jsonl(run.folder / "pairs.jsonl", [p.to_json() for p in pairs])
        write_json(run.folder / "labelers.json", labelers)
        write_jsonl(run.folder / "prompts.jsonl", [p.to_json() for p in fitted.prompts])
        write_json(run.folder / "summary.json", fitted.summary.to_json())
        run.metrics = {
            "method": fitted.method,
            **fitted.summary.to_json(),
            "usable_pairs": len(pairs),
            "flagged": [row["labeler_id"] for row in labelers if row["flagged"]],
        }
    return {
        "run_id": run.run_id,
        "folder": str(run.folder),
        **run.metrics,
        "labelers_table": labelers,
    }


def train_reward(job: Job) -> dict[str, Any]:
    """Train the reward model; held-out accuracy beside the labelers' own agreement."""
    from alignment.models.loading import load_tokenizer
    from alignment.training import reward

    job = job.settled("pairs", job.pairs_file())
    config, launch, pairs = job.config.reward, launcher.launch_of(**job.launch), job.pairs()
    train, held_out = split_by_prompt(pairs, config.held_out_fraction, config.seed)
    base = job.base_model()
    tokenizer = load_tokenizer(base)
    agreed = None
    if job.workspace is not None:
        agreed = runs.run_in(job.workspace.store, "consensus", job.pairs_file().parent)
    summary = agreed.metrics if agreed else {}
    with job.run("reward", config, {"model": base, "pairs": len(pairs)}) as run:
        known: dict[str, Any] = {
            "evidence": _labeler_evidence(job, agreed, {pair.prompt_id for pair in held_out}),
            "tasks": _task_texts(job),
            "resume": job.resume,
            "base_precision": job.config.base_precision,
        }
        if launch is None:
            figures = reward.train_reward(
                base, tokenizer, train, held_out, config, run.folder, job.progress, **known
            ).to_json()
        else:
            spec = launcher.reward_spec(base, train, held_out, config, **known)
            figures = launcher.train(spec, run.folder, launch, job.progress)
        run.metrics = {
            **figures,
            "labeler_agreement": summary.get("agreement_with_consensus"),
            "trusted_labeler_agreement": summary.get("trusted_agreement_with_consensus"),
        }
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics}


def _labeler_evidence(
    job: Job, run: runs.Run | None, prompt_ids: set[str]
) -> LabelerEvidence | None:
    """What the labelers did on these prompts, where the pairs come from `run`, a consensus of the workspace."""
    if run is None or run.folder is None:
        return None
    folder = Path(run.folder)
    found = snapshot.read(folder) if snapshot.is_in(folder) else job.snapshot()
    labelers = read_json(folder / "labelers.json")
    rankings = snapshot.counting(found.rankings, run.config.get("labelers", "auto"))
    return labeler_evidence(rankings, labelers, prompt_ids, run.config.get("method", "auto"))


def _task_texts(job: Job) -> dict[str, tuple[PromptText, list[str]]]:
    """Prompt id -> prompt and completions of each task of the workspace, for the order in which they are asked."""
    if job.workspace is None:
        return {}
    store = job.workspace.store
    prompts = {prompt.prompt_id: prompt.prompt for prompt in store.prompts()}
    texts = {name: completion.text for name, completion in store.completions().items()}
    return {
        task.prompt_id: (prompts[task.prompt_id], [texts[name] for name in task.completion_ids])
        for task in store.tasks()
    }


def train_ppo(job: Job) -> dict[str, Any]:
    """Align a policy against the reward; a resumed run reads the prompts that it began with."""
    from alignment.models.loading import load_tokenizer
    from alignment.training import ppo

    reward_model = job.reward_model() if job.config.ppo.uses_reward_model else None
    if reward_model is not None:
        job = job.settled("reward_model", reward_model)
    config, launch = job.config.ppo, launcher.launch_of(**job.launch)
    everyone = _ppo_prompts(job)
    prompts = [p for p in everyone if p.split == "train"]
    held_out = [p for p in everyone if p.split == "held-out"]
    base = job.base_model()
    if config.reward_threshold is not None and not held_out:
        raise InputError(
            'A reward threshold is measured on held-out prompts, and there are none. Mark some prompts "split": '
            '"held-out", or take ppo.reward_threshold out.'
        )
    inputs = {
        "model": base,
        "reward_model": None if reward_model is None else str(reward_model.resolve()),
        "prompts": len(prompts),
    }
    with job.run("ppo", config, inputs) as run:
        write_jsonl(run.folder / PROMPTS_FILE, [p.to_json() for p in everyone])
        progress = _keeping_warnings(run, job.progress)
        if launch is None:
            run.metrics = ppo.train_ppo(
                base,
                load_tokenizer(base),
                reward_model,
                prompts,
                held_out,
                config,
                run.folder,
                progress,
                resume=job.resume,
                base_precision=job.config.base_precision,
            ).to_json()
        else:
            spec = launcher.ppo_spec(
                base,
                reward_model,
                prompts,
                held_out,
                config,
                launch,
                resume=job.resume,
                base_precision=job.config.base_precision,
            )
            run.metrics = launcher.train(spec, run.folder, launch, progress)
        write_card(job.workspace.store if job.workspace else None, run.folder, base)
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics}


def _keeping_warnings(run: RunFolder, progress: Progress) -> Progress:
    """Progress that puts the warnings of a PPO run on its record as they come."""
    from alignment.training.ppo_watch import WARNINGS_FILE, read_rows

    def told(label: str, done: int, total: int, note: str = "") -> None:
        warnings = [row["warning"] for row in read_rows(run.folder / WARNINGS_FILE)]
        if warnings != run.metrics.get("warnings", []):
            run.keep(warnings=warnings)
        progress(label, done, total, note)

    return told


def _ppo_prompts(job: Job) -> list[Prompt]:
    """The prompts of both splits; those kept in the run's folder where the run goes on."""
    folder = job.out
    if job.workspace is not None and job.run_id is not None:
        folder = Path(runs.run(job.workspace.store, job.run_id).folder or "")
    if job.resume and folder is not None and (folder / PROMPTS_FILE).exists():
        return read_jsonl(folder / PROMPTS_FILE, Prompt.from_json)
    job.prompts("train")  # there must be some
    return job.prompts()


def evaluate_toxicity(job: Job) -> dict[str, Any]:
    """Compare base and policy on the held-out prompts; write comparison, completions and reports."""
    from alignment import evaluation_stage

    return evaluation_stage.toxicity(job)


def export(job: Job, what: str, model_options: bool = False) -> dict[str, Any]:
    """Write prompts, completions, rankings, pairs or labelers of the workspace to `--out FILE`."""
    if model_options:
        raise InputError(
            f"--merge, --policy, --best and --model belong to `concord export model`; leave them out for {what}."
        )
    store = job._store("workspace")
    if job.out is None:
        raise InputError("Say which file to write: --out FILE.jsonl.")
    kinds = {
        "prompts": lambda: [p.to_json() for p in store.prompts()],
        "completions": lambda: [c.to_json() for c in store.completions().values()],
        "rankings": lambda: [r.to_json() for r in store.rankings()],
        "pairs": lambda: [p.to_json() for p in job.pairs()],
        "labelers": lambda: people.labelers(store),
    }
    if what not in kinds:
        raise InputError(
            f"There is no {what!r} to export{nearest(what, [*kinds, 'model']) or ''}. Choose {', '.join(kinds)}, "
            "or model."
        )
    rows = kinds[what]()
    if job.out.exists():
        raise InputError(f"{job.out} exists already. Choose another name; nothing was overwritten.")
    write_jsonl(job.out, rows)
    audit.record(store, job.by, f"export {what}", rows=len(rows), file=str(job.out))
    return {"what": what, "rows": len(rows), "file": str(job.out)}
