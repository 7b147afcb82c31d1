"""What a run about to be asked for will learn from: counts and agreement, and the texts that decide its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignment import control
from alignment.errors import ConcordError
from alignment.feedback import run_queue, runs, snapshot
from alignment.feedback.runs import Run
from alignment.files import read_jsonl
from alignment.records import PreferencePair, Ranking, text_of
from alignment.workspace import Workspace


def learns_from(
    workspace: Workspace, stage: str, labelers: str, source: str | None
) -> dict[str, Any] | None:
    """The rankings behind a run of `stage` that reads the run `source` (the newest where None).

    `people` and `simulated`: figures of `snapshot.figures`, None of no rankings; `consensus`: the run that froze them,
    None where they are frozen at the start; `usable_pairs` of that run; `together`: figures that were not kept apart;
    `problem`: why the stage could not combine those of `labelers`. None for stages that read no rankings.
    """
    if stage in ("consensus", "round"):
        rankings, problem = snapshot.take(workspace.store).rankings, None
        try:
            snapshot.counting(rankings, labelers)
        except ConcordError as error:
            problem = str(error)
        return {"consensus": None, "usable_pairs": None, "problem": problem, **_shares(rankings)}
    consensus = _consensus_behind(workspace, stage, source)
    if consensus is None or consensus.folder is None:
        return None
    about = {
        "consensus": consensus.run_id,
        "usable_pairs": consensus.metrics.get("usable_pairs"),
        "problem": None,
    }
    folder = Path(consensus.folder)
    if not snapshot.is_in(folder):  # of before snapshots were kept
        keys = ("prompts", "rankings", "labelers", "krippendorff_alpha", "pairwise_agreement")
        told = {key: consensus.metrics.get(key) for key in keys}
        return {**about, "people": None, "simulated": None, "together": told}
    found = snapshot.read(folder).rankings
    counted = snapshot.counting(found, consensus.config.get("labelers", "auto"))
    return {**about, **_shares(counted)}


def before_start(
    workspace: Workspace,
    stage: str,
    assignments: Sequence[str],
    source: str | None,
    launch: Mapping[str, Any],
) -> dict[str, Any]:
    """`control.preview` with the `rankings` behind the run and, of a training, its `plan` or the `problem` with it.

    `launch` names `fsdp` or `nproc` processes, or nothing.
    """
    from alignment.run_plan import plan_run

    config = control.new_config(workspace, assignments, stage)
    found = control.preview(workspace, stage, config, source, launch)
    found["rankings"] = learns_from(workspace, stage, config.consensus.labelers, source)
    if stage in control.TRAINING:
        texts = longest_texts(workspace, stage, found["reads"])
        try:
            devices = max(launch.values(), default=1)
            found["plan"] = plan_run(config, stage, devices, "fsdp" in launch, texts)
        except ConcordError as error:
            found["plan"] = {"problem": str(error)}
    return found


def _shares(rankings: list[Ranking]) -> dict[str, Any]:
    return {
        "people": snapshot.figures([r for r in rankings if not r.simulated]),
        "simulated": snapshot.figures([r for r in rankings if r.simulated]),
        "together": None,
    }


def _consensus_behind(workspace: Workspace, stage: str, source: str | None) -> Run | None:
    """The consensus run from which the pairs come, of a reward model or of the one that PPO reads."""
    if stage not in ("reward", "ppo"):
        return None
    read = control.source_stage(stage) or ""
    run = (
        run_queue.latest_run(workspace.store, read)
        if source is None
        else runs.run(workspace.store, source)
    )
    if run is None or run.stage == "consensus":
        return run
    request = run_queue.request_of(workspace.store, run.run_id)
    pairs = None if request is None else request.files.get("pairs")
    if pairs is None:
        return None
    return runs.run_in(workspace.store, "consensus", Path(pairs).parent)


def longest_texts(workspace: Workspace, stage: str, files: dict[str, str]) -> dict[str, Any]:
    """The longest `prompt` and `completion` by characters, and how many `completions` are read; None where unknown."""
    if stage == "reward" and "pairs" in files:
        path = Path(files["pairs"])
        return _of_pairs(path, path.stat().st_mtime_ns) if path.is_file() else dict(_UNKNOWN)
    prompts = [prompt.prompt for prompt in workspace.store.prompts()]
    drawn = workspace.store.completions().values() if stage == "reward" else ()
    return _longest(prompts, [one.text for one in drawn])


_UNKNOWN = {"prompt": None, "completion": None, "completions": None}


@lru_cache(maxsize=8)
def _of_pairs(path: Path, changed: int) -> dict[str, Any]:
    pairs = read_jsonl(path, PreferencePair.from_json)
    texts = {(pair.prompt_id, text) for pair in pairs for text in (pair.chosen, pair.rejected)}
    return _longest([pair.prompt for pair in pairs], [text for _, text in texts])


def _longest(prompts: list[Any], texts: list[str]) -> dict[str, Any]:
    return {
        "prompt": max(prompts, key=lambda prompt: len(text_of(prompt)), default=None),
        "completion": max(texts, key=len, default=None),
        "completions": len(texts) or None,
    }
