"""`concord evaluate ...` and `concord report`: generate, score, compare, write the reports, record the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.evaluation.checkpoints import checkpoints_of
from alignment.evaluation.evaluation import (
    COMPARISON_FILE,
    Evaluation,
    evaluate,
    read_evaluation,
)
from alignment.evaluation.figures import Settings
from alignment.evaluation.material import (
    Material,
    ModelCompletions,
    Probe,
    ScorerCard,
    answered,
    check_names,
    save_material,
)
from alignment.evaluation.report import HTML_FILE, Background, write_reports
from alignment.evaluation.reward_evidence import EVIDENCE_FILE, evidence_behind
from alignment.evaluation.toxicity import Scorer, load_scorer, score_all
from alignment.evaluation.trained_by import is_trainer, training_scorers
from alignment.exporting import runs_behind
from alignment.feedback import blind, run_queue, runs
from alignment.feedback.store import Store
from alignment.files import read_json, read_jsonl, write_json
from alignment.pipeline import Job
from alignment.records import Completion, Prompt
from alignment.workspace import RUN_FILE, RunFolder

BEFORE, AFTER = "before", "after"
SPAN_TEXTS = 2000  # toxic texts whose toxic words are looked for, at most


def toxicity(job: Job) -> dict[str, Any]:
    """Base against policy on the held-out prompts, under the names `before` and `after`."""
    prompts = job.prompts("held-out")
    job = job.settled("policy", job.policy())
    base, policy = job.base_model(), str(job.policy())
    inputs = {"model": base, "policy": policy, "prompts": [p.prompt_id for p in prompts]}
    models = [(BEFORE, base), (AFTER, policy)]
    return _generate_and_compare(job, models, prompts, inputs, one_base=True)


def compare_models(job: Job, models: Sequence[str], checkpoints: bool = False) -> dict[str, Any]:
    """Any number of models, each `NAME=DIR_OR_ID`; the first is the reference, the last the candidate.

    DIR_OR_ID is a folder, a hub id, `demo`, or the id of a run of the workspace. With `checkpoints` the checkpoints in
    each model's folder are compared too. Returns `models` and `paired` beside the headline figures.
    """
    named = [found for text in models for found in _named_model(job, text, checkpoints)]
    check_names([name for name, _ in named])
    if len(named) < 2:
        raise InputError(
            "Name at least two models: --model base=DIR_OR_ID --model aligned=DIR_OR_ID. The first is the reference."
        )
    everything = job.prompts() if job.file("prompts") else job.prompts("held-out")
    prompts = [p for p in everything if p.split == "held-out"] or everything
    inputs = {"models": dict(named), "prompts": [p.prompt_id for p in prompts]}
    return _generate_and_compare(job, named, prompts, inputs)


def compare_texts(job: Job, before: Path, after: Path) -> dict[str, Any]:
    """Completions that were made elsewhere: two JSONL files of completions of the same prompts.

    The prompts come from `--prompts` or the workspace; without either a prompt is shown by its id.
    """
    sides = [
        ModelCompletions(name, read_jsonl(path, Completion.from_json), source=str(path))
        for name, path in ((BEFORE, before), (AFTER, after))
    ]
    if job.file("prompts") is None and job.workspace is None:
        ids = dict.fromkeys(c.prompt_id for side in sides for c in side.completions)
        prompts = [Prompt(i, i, "held-out") for i in ids]
    else:
        prompts = job.prompts()
    prompts = answered(prompts, sides)
    sides = [_own_ids(side) for side in sides]
    inputs = {"before": str(before), "after": str(after), "prompts": len(prompts)}
    with job.run("evaluate", job.config.evaluate, inputs) as run:
        scorers = _scorers(job)
        figures = _score_and_compare(job, run, prompts, sides, scorers, None)
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics, **figures}


def _own_ids(side: ModelCompletions) -> ModelCompletions:
    """The same text from both sides may carry the same id; here each side's are told apart."""
    rows = [
        replace(c, completion_id=f"{side.name}/{c.completion_id}/{i}")
        for i, c in enumerate(side.completions)
    ]
    return replace(side, completions=rows)


def _generate_and_compare(
    job: Job,
    models: Sequence[tuple[str, str]],
    prompts: Sequence[Prompt],
    inputs: dict[str, Any],
    *,
    one_base: bool = False,
) -> dict[str, Any]:
    from alignment.evaluation.paired import paired_completions, read_probe

    config, precision = job.config.evaluate, job.config.base_precision
    scorers = _scorers(job)
    probe = read_probe(Path(config.probe)) if config.probe else []
    inputs = {**inputs, "base_precision": precision}
    if len(prompts) < 2:
        raise InputError(
            f"A comparison needs completions of at least 2 prompts; there is {len(prompts)}. Add held-out prompts."
        )
    with job.run("evaluate", config, inputs) as run:
        made, losses = paired_completions(
            models,
            prompts,
            config,
            config.completions_per_prompt,
            run.run_id,
            precision=precision,
            probe=probe,
            one_base=one_base,
            progress=job.progress,
        )
        figures = _score_and_compare(job, run, prompts, made, scorers, losses)
    return {"run_id": run.run_id, "folder": str(run.folder), **run.metrics, **figures}


def _scorers(job: Job) -> list[tuple[str, Scorer]]:
    """The scorers that are asked for, loaded before anything is generated: a mistake shows at once."""
    config = job.config.evaluate
    asked = list(dict.fromkeys([config.scorer, *config.more_scorers]))
    loaded = [(name, load_scorer(name, config.toxic_label, job.progress)) for name in asked]
    names = [scorer.name for _, scorer in loaded]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise InputError(f"Two scorers are called {twice!r}. Name each one once.")
    return loaded


def _score_and_compare(
    job: Job,
    run: RunFolder,
    prompts: Sequence[Prompt],
    models: Sequence[ModelCompletions],
    scorers: Sequence[tuple[str, Scorer]],
    probe: Probe | None,
) -> dict[str, Any]:
    """Score, compare and write everything into the run's folder; returns `models` and `paired` for programs."""
    config = job.config.evaluate
    trainers = set(config.trained_by)
    for model in models[1:]:
        trainers |= training_scorers(Path(model.source))
    cards = tuple(
        ScorerCard(scorer.name, scorer.blind_spots, is_trainer(asked, scorer.name, trainers))
        for asked, scorer in scorers
    )
    scores = {}
    for number, (_, scorer) in enumerate(scorers, start=1):
        scores[scorer.name] = score_all(scorer, [model.texts for model in models])
        job.progress("scoring", number, len(scorers))
    material = Material(tuple(prompts), tuple(models), cards, scores, probe=probe)
    settings = Settings(config.threshold, config.resamples, config.permutations, config.seed)
    found = evaluate(material, settings)
    main = found.card().name
    scorer = next(scorer for _, scorer in scorers if scorer.name == main)
    material = replace(material, spans=_spans(material, main, scorer, config.threshold))
    save_material(run.folder, material)
    row = found.to_json()
    write_json(run.folder / COMPARISON_FILE, row)
    run.metrics = evaluation_figures(found)
    story = background(job, models[-1].source, run.run_id, run.folder)
    write_reports(run.folder, found, material, story)
    return {"models": row["models"], "paired": row["paired"]}


def _spans(material: Material, name: str, scorer: Scorer, threshold: float) -> dict[str, Any]:
    """Where the toxic words stand, of at most `SPAN_TEXTS` distinct toxic texts."""
    from alignment.evaluation.spans import toxic_spans

    pairs = [
        (completion, float(score))
        for model, scores in zip(material.models, material.scores[name], strict=True)
        for completion, score in zip(model.completions, scores, strict=True)
        if score >= threshold and completion.text.strip()
    ]
    texts = {completion.text: score for completion, score in pairs}
    kept = list(texts)[:SPAN_TEXTS]
    found = dict(
        zip(kept, toxic_spans(kept, [texts[t] for t in kept], scorer, threshold), strict=True)
    )
    return {c.completion_id: found[c.text] for c, _ in pairs if found.get(c.text)}


def evaluation_figures(found: Evaluation) -> dict[str, Any]:
    """The headline figures of the candidate, under the names that programs read."""
    comparison = found.comparison()
    before, after = comparison.before, comparison.after

    figures = {
        "toxicity_before": asdict(before.toxicity),
        "toxicity_after": asdict(after.toxicity),
        "toxicity_reduction": comparison.reduction.mean if comparison.reduction else None,
        "toxicity_difference": asdict(comparison.difference),
        "p_value": comparison.p_value,
        "perplexity_before": before.perplexity,
        "perplexity_after": after.perplexity,
        "distinct_before": before.distinct_2,
        "distinct_after": after.distinct_2,
        "unfinished_before": before.unfinished,
        "unfinished_after": after.unfinished,
        "verdict": comparison.verdict,
        "headline": comparison.headline,
        "scorer": comparison.scorer,
        "reductions": {
            name: change.reduction.mean if change.reduction else None
            for name, change in found.pairs[found.candidate].scorers.items()
        },
    }
    if after.kl is not None:
        figures["kl"] = after.kl.mean
    return figures


def _named_model(job: Job, text: str, checkpoints: bool) -> list[tuple[str, str]]:
    """`NAME=DIR_OR_ID` as name and place, with the checkpoints in the folder before it where they are asked for."""
    name, equals, place = text.partition("=")
    if not equals or not name or not place:
        raise InputError(
            f"--model {text!r}: write it as NAME=DIR_OR_ID, for example --model base=Qwen/Qwen3-0.6B."
        )
    place = _place_of(job, place)
    found = [(name, place)]
    if checkpoints and Path(place).is_dir():
        steps = checkpoints_of(Path(place))
        found = [*((f"{name}@{step}", str(folder)) for step, folder in steps), *found]
    return found


def _place_of(job: Job, place: str) -> str:
    """A model's folder or hub id; `demo` and ids of runs are looked up, runs of another workspace refused."""
    if place == "demo":
        from alignment.demo_base import ensure_demo_model

        return str(ensure_demo_model(job.progress))
    folder = Path(place)
    if job.workspace is None:
        return place
    known = {run.run_id: run for run in runs.runs(job.workspace.store)}
    if place in known:
        run = known[place]
        if run.status != "finished" or run.folder is None or run.stage == "evaluate":
            raise InputError(
                f"The run {place} holds no model: it is a {run.stage} run and is {run.status}. Name a finished "
                "training run; `concord runs list` shows them."
            )
        return run.folder
    if (folder / RUN_FILE).is_file():
        theirs = read_json(folder / RUN_FILE).get("run_id")
        if theirs not in known:
            raise InputError(
                f"{place} is the run {theirs} of another workspace: what it was trained on is not recorded here. "
                "Compare in that workspace, or outside of any (without --workspace, from another folder, with "
                "--prompts and --out)."
            )
    return place


def train_scorer(job: Job, texts: Path, name: str) -> dict[str, Any]:
    """Train a linear scorer on `{"text", "toxic"}` lines and write it to `--out DIR`."""
    from alignment.evaluation import linear_scorer

    if job.out is None:
        raise InputError("Say where the scorer shall go: --out DIR.")
    if linear_scorer.is_linear_scorer(job.out):
        raise InputError(f"{job.out} already holds a scorer. Choose another --out.")
    rows = read_jsonl(texts, _labelled_text)
    scorer = linear_scorer.train(
        [text for text, _ in rows], [toxic for _, toxic in rows], name, job.config.evaluate.seed
    )
    linear_scorer.save(scorer, job.out)
    return {"scorer": name, "folder": str(job.out), **scorer.about}


def _labelled_text(row: Any) -> tuple[str, bool]:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError("each line needs a 'text'.")
    if row.get("toxic") not in (True, False, 0, 1):
        raise InputError("each line needs 'toxic': true or false.")
    return row["text"], bool(row["toxic"])


def report(job: Job, verify: bool = False) -> dict[str, Any]:
    """Write HTML, Markdown and CSV of the latest evaluation (or of `--comparison FILE`) again.

    The figures are those of `comparison.json`; nothing is computed anew. With `verify` they are also computed again
    from the stored completions and scores, and `InputError` says where they differ.
    """
    source = job.file("comparison")
    run_id = None
    if source is None:
        latest = run_queue.latest_run(job._store("comparison"), "evaluate")
        if latest is None or latest.folder is None:
            raise InputError(
                "There is no finished evaluation. Run `concord evaluate toxicity`, or give --comparison."
            )
        run_id = latest.run_id
        source = Path(latest.folder) / COMPARISON_FILE
    source = source / COMPARISON_FILE if source.is_dir() else source
    if not source.is_file():
        raise InputError(f"{source} does not exist. Check the path.")
    if source.name != COMPARISON_FILE:
        raise InputError(
            f"{source} is not a {COMPARISON_FILE}. Name that of an evaluation's folder."
        )
    found, material = read_evaluation(source.parent)
    if verify:
        check_figures(found, material)
    target = job.out or source.parent / HTML_FILE
    story = background(job, found.models[-1].source, run_id, source.parent)
    written = write_reports(target.parent, found, material, story, html_name=target.name)
    comparison = found.comparison()
    return {
        "report": str(target),
        "files": [str(path) for path in written],
        "verdict": comparison.verdict,
        "headline": comparison.headline,
        **({"verified": True} if verify else {}),
    }


def check_figures(found: Evaluation, material: Material) -> None:
    """`InputError` where a figure is not what the stored completions and scores give."""
    again = evaluate(material, found.settings).to_json()
    stored = found.to_json()
    if differing := [key for key in stored if stored[key] != again[key]]:
        raise InputError(
            f"The stored figures are not those of the stored completions: {', '.join(differing)} differ. The files "
            "were changed after the evaluation, or by another version of Concord. Run the evaluation again."
        )


def background(job: Job, policy: str, run_id: str | None, folder: Path) -> Background:
    """What is known of how the policy came to be, and what reviewers said of the evaluation in `folder`."""
    store = job.workspace.store if job.workspace else None
    return background_of(store, Path(policy), run_id, folder)


def background_of(
    store: Store | None, policy: Path, run_id: str | None, folder: Path
) -> Background:
    """As `background`, from the workspace's store or from the files of the runs alone."""
    behind = runs_behind(store, policy)
    ppo, reward, consensus = (behind.get(stage) for stage in ("ppo", "reward", "consensus"))
    about = None
    if consensus and (Path(consensus["folder"]) / "labelers.json").is_file():
        rows = read_json(Path(consensus["folder"]) / "labelers.json")
        about = {**consensus["metrics"], "labelers": rows}
    return Background(
        training=_training_rows(Path(ppo["folder"]) if ppo else policy),
        consensus=about,
        reward=reward["metrics"] if reward else None,
        runs=[*reversed(behind.values())],
        reviews=[r.to_json() for r in runs.reviews(store, run_id)] if store and run_id else [],
        people=blind.results(store, run_id) if store and run_id else [],
        evidence=_evidence(policy, folder),
    )


def _evidence(policy: Path, folder: Path) -> dict[str, Any] | None:
    """What the evaluation kept of the rewards behind its candidate; at first what the policy's folder names."""
    kept = folder / EVIDENCE_FILE
    return read_json(kept) if kept.is_file() else evidence_behind(policy)


def _training_rows(folder: Path) -> list[dict[str, Any]] | None:
    path = folder / "metrics.jsonl"
    return read_jsonl(path, dict) if path.is_file() else None
