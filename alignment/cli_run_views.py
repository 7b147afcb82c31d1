"""`concord runs list|show|log|queue|round|check|compare`: what there is, how far it is, what came out."""

from __future__ import annotations

import json
from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from alignment.cli_shared import (
    FsdpOption,
    JsonOption,
    NprocOption,
    SetOption,
    WorkspaceOption,
    job,
    launch_options,
    rows,
)

RunId = Annotated[str, typer.Argument(help="The run's id, as `runs list` shows it.")]
StageArgument = Annotated[
    str, typer.Argument(help="sample, consensus, reward, ppo, evaluate or round.")
]
SOURCE_HELP = "The run whose output is read; by default the newest finished one."


class Record(StrEnum):
    """What a run writes while it works."""

    log = "log"
    metrics = "metrics"
    samples = "samples"
    warnings = "warnings"


def add_commands(runs_app: typer.Typer) -> None:
    """Put the commands that look, and change nothing, under `concord runs`."""
    for command in (list_, show, log, queue, round_, check, compare):
        runs_app.command(command.__name__.rstrip("_"))(command)


def list_(
    workspace: WorkspaceOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Those in the bin too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The runs of the workspace, newest first; runs whose process has died are marked."""
    from alignment import control
    from alignment.feedback import run_queue, runs

    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        control.reap(work.workspace)
        gone = run_queue.deleted(store)
        found = [{**run.to_json(), "deleted": run.run_id in gone} for run in runs.runs(store)]
    shown = [run for run in found if everything or not run["deleted"]]
    more = ("deleted",) if everything else ()
    rows(shown, ("run_id", "stage", "status", "started", "message", *more), as_json, "runs")


def show(run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """One run: its configuration, inputs, versions, figures, notes and how far it is."""
    from alignment import control
    from alignment.feedback import run_queue, runs

    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        control.reap(work.workspace)
        run = runs.run(store, run_id)
        marks = run_queue.marks(store, run_id)
        found = {
            **run.to_json(),
            "progress": control.progress_of(run),
            "tags": run_queue.tags(marks),
            "notes": [m.value for m in marks if m.kind == "note"],
        }
    _print(found, as_json)


def log(
    run_id: RunId,
    of: Annotated[Record, typer.Option(help="Which record of the run.")] = Record.log,
    last: Annotated[int, typer.Option(min=1, help="Lines to print, from the end.")] = 200,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """The end of a run's log, or of its metrics, samples or warnings as JSON lines."""
    from alignment import control
    from alignment.errors import StoreError
    from alignment.feedback import runs

    with job(None, workspace, None, None) as work:
        run = runs.run(work._store("workspace"), run_id)
    path = Path(run.folder or "") / control.RECORDS[of]
    if not path.is_file():
        raise StoreError(f"The run {run_id!r} ({run.status}) has written no {of.value} yet.")
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n") for line in deque(file, last)]
    if as_json:
        typer.echo(json.dumps({"run_id": run_id, "of": of, "lines": lines}, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line)


def queue(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """What is at work, and what waits, in the order in which it starts."""
    from alignment import control
    from alignment.feedback import run_queue, runs

    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        control.reap(work.workspace)
        active = [run for run in reversed(runs.runs(store)) if run.status in run_queue.ACTIVE]
        waiting = run_queue.queue(store)
    table = [
        {"place": 0, "run_id": run.run_id, "stage": run.stage, "status": run.status, "after": []}
        for run in active
    ]
    table += [
        {
            "place": place,
            "run_id": request.run_id,
            "stage": request.stage,
            "status": "queued",
            "after": list(request.after),
        }
        for place, request in enumerate(waiting, start=1)
    ]
    rows(table, ("run_id", "place", "stage", "status", "after"), as_json, "queue")


def round_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Where the round stands, the one next thing for each role, and what came out of all rounds."""
    from alignment.feedback.next_steps import next_steps
    from alignment.feedback.rounds import rounds

    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        found = {"rounds": [one.to_json() for one in rounds(store)], "next": next_steps(store)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for one in found["rounds"][-1:]:
        typer.echo(f"Round {one['number']}")
        rows(list(one["steps"]), ("title", "state", "detail", "run_id"), False, "steps")
    for role, text in found["next"].items():
        typer.echo(f"{role}: {text}")
    if found["rounds"]:
        rows(found["rounds"], _FIGURES, False, "rounds")


_FIGURES = ("number", "toxicity_before", "toxicity_after", "alpha", "agreement", "verdict")


def check(
    stage: Annotated[str, typer.Argument(help="sample, consensus, reward, ppo or evaluate.")],
    assignments: SetOption = None,
    source: Annotated[str | None, typer.Option(help=SOURCE_HELP)] = None,
    fsdp: FsdpOption = None,
    nproc: NprocOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a run before it starts: its configuration, what it reads and the rankings behind that, what differs from
    the stage's last run, and what a training will need."""
    from alignment import run_data

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        found = run_data.before_start(
            work.workspace, stage, assignments or [], source, launch_options(fsdp, nproc)
        )
    _print(found, as_json)


def compare(
    run_ids: Annotated[list[str], typer.Argument(help="Two or more runs.")],
    workspace: WorkspaceOption = None,
    file: Annotated[
        Path | None, typer.Option("--csv", help="CSV file to write, a row per run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Several runs beside each other: where their configurations differ, and what came out."""
    from alignment import comparing

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        found = comparing.compare(work.workspace, run_ids)
    if file is not None:
        comparing.write_csv(file, found)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    shown = [*sorted({key for row in found["outcomes"] for key in row} - {"run_id"})]
    table = [{key: row.get(key) for key in ("run_id", *shown)} for row in found["outcomes"]]
    rows(table, ("run_id", *shown), False, "outcomes")
    changes = [
        {"option": key, **dict(zip(run_ids, values, strict=True))}
        for key, values in found["differences"].items()
    ]
    if changes:
        rows(changes, ("option", *run_ids), False, "differences")


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        Console().print_json(data=found)
