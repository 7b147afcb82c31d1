"""`concord runs`: ask for runs, watch them, end them, go on, compare: the control room of the command line."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from alignment.cli_shared import (
    BestOption,
    FsdpOption,
    JsonOption,
    LaunchConfigOption,
    NprocOption,
    SetOption,
    WorkspaceOption,
    job,
    launch_options,
    rows,
    show,
)

runs_app = typer.Typer(
    help="Runs: start, watch, stop, resume, compare; what was run, with which figures.",
    no_args_is_help=True,
)
RunId = Annotated[str, typer.Argument(help="The run's id, as `runs list` shows it.")]
MostOption = Annotated[int, typer.Option("--most", min=1, help="Runs that may work at once.")]
WATCH_SECONDS = 1.0


def _me() -> str:
    """Who asks, for the record."""
    return getpass.getuser()


@runs_app.command("list")
def runs_list(
    workspace: WorkspaceOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Deleted runs too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The runs of the workspace, newest first; runs whose process has died are marked."""
    from alignment import control
    from alignment.feedback import run_queue, runs

    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        control.reap(work.workspace)
        hidden = set() if everything else run_queue.deleted(store)
        found = [run.to_json() for run in runs.runs(store) if run.run_id not in hidden]
    rows(found, ("run_id", "stage", "status", "started", "message"), as_json, "runs")


@runs_app.command("show")
def runs_show(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """One run: its configuration, inputs, versions, figures, notes and how far it is."""
    from alignment import control
    from alignment.feedback import run_queue, runs

    with job(None, workspace, None, None) as work:
        run = runs.run(work._store("workspace"), run_id)
        marks = run_queue.marks(work.workspace.store, run_id)
        found = {
            **run.to_json(),
            "progress": control.progress_of(run),
            "tags": run_queue.tags(marks),
            "notes": [m.value for m in marks if m.kind == "note"],
        }
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        Console().print_json(data=found)


@runs_app.command("start")
def runs_start(
    stage: Annotated[
        str, typer.Argument(help="sample, consensus, reward, ppo, evaluate or round.")
    ],
    workspace: WorkspaceOption = None,
    assignments: SetOption = None,
    fsdp: FsdpOption = None,
    nproc: NprocOption = None,
    launch_config: LaunchConfigOption = None,
    watch: Annotated[bool, typer.Option(help="Stay and follow the run to its end.")] = False,
    most: MostOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Put a run, or the whole round, into the queue and start it when its turn comes, in a process of its own."""
    from alignment import control

    section = None if stage == "round" else stage
    with job(None, workspace, None, None) as work:
        work._store("workspace")
        config = control.new_config(work.workspace, assignments or [], section)
        launch = launch_options(fsdp, nproc, launch_config)
        if stage == "round":
            asked = control.submit_round(work.workspace, config, by=_me(), launch=launch)
        else:
            asked = [control.submit(work.workspace, stage, config, by=_me(), launch=launch)]
        started = control.dispatch(work.workspace, most)
        if watch:
            for run_id in asked:
                _follow(work.workspace, run_id, work.progress)
    show({"run_id": asked[-1], "queued": asked, "started": started}, as_json, "Asked for")


@runs_app.command("watch")
def runs_watch(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Follow a run to its end."""
    with job(None, workspace, None, None) as work:
        work._store("workspace")
        run = _follow(work.workspace, run_id, work.progress)
    show({"run_id": run_id, "status": run.status, "message": run.message}, as_json, "Ended")


def _follow(workspace: Any, run_id: str, progress: Any) -> Any:
    """Show a run's progress until it has ended, and return it. What waits starts when its turn comes."""
    from alignment import control
    from alignment.feedback import runs
    from alignment.feedback.run_queue import ENDED

    while (run := runs.run(workspace.store, run_id)).status not in ENDED:
        control.dispatch(workspace)
        if (at := control.progress_of(run)) is not None:
            progress(f"{run.stage}: {at['label']}", at["done"], at["total"], at["note"])
        time.sleep(WATCH_SECONDS)
    return run


@runs_app.command("stop")
def runs_stop(
    run_id: RunId,
    workspace: WorkspaceOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Without a checkpoint: the whole process tree at once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """End a run: training writes a checkpoint first and can be resumed; a waiting run leaves the queue."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        said = control.stop(work.workspace, run_id, by=_me(), at_once=now)
    show({"run_id": run_id, "message": said}, as_json, "Stop")


@runs_app.command("resume")
def runs_resume(
    run_id: RunId,
    workspace: WorkspaceOption = None,
    watch: Annotated[bool, typer.Option(help="Stay and follow the run to its end.")] = True,
    most: MostOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Go on with a stopped or failed training run (or the folder of its --out) from its last whole checkpoint."""
    from alignment import control, pipeline
    from alignment.feedback import runs

    if (Path(run_id) / "run.json").is_file():
        with job(None, None, None, None) as work:
            figures = pipeline.resume_folder(Path(run_id), work.progress)
        show(figures, as_json, "Resumed")
        return
    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.reap(work.workspace)
        control.resume(work.workspace, run_id, by=_me())
        control.dispatch(work.workspace, most)
        if watch:
            _follow(work.workspace, run_id, work.progress)
        run = runs.run(work.workspace.store, run_id)
    figures = {"run_id": run_id, "status": run.status, "message": run.message, **run.metrics}
    show(figures, as_json, "Resumed")


@runs_app.command("clone")
def runs_clone(
    run_id: RunId,
    workspace: WorkspaceOption = None,
    assignments: SetOption = None,
    most: MostOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Ask for the same once more, with changes."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        cloned = control.clone(work.workspace, run_id, assignments or [], by=_me())
        started = control.dispatch(work.workspace, most)
    show({"run_id": cloned, "started": cloned in started}, as_json, "Cloned")


@runs_app.command("delete")
def runs_delete(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Hide a run and move its files to the workspace's bin/; nothing is destroyed."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        where = control.delete(work.workspace, run_id, by=_me())
    show({"run_id": run_id, "files": str(where)}, as_json, "Deleted")


@runs_app.command("restore")
def runs_restore(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Bring a deleted run back."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.restore(work.workspace, run_id, by=_me())
    show({"run_id": run_id}, as_json, "Restored")


@runs_app.command("note")
def runs_note(
    run_id: RunId,
    text: Annotated[str, typer.Argument(help="What to remember about the run.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a note on a run."""
    _mark(run_id, "note", text, workspace, as_json)


@runs_app.command("tag")
def runs_tag(
    run_id: RunId,
    tag: Annotated[str, typer.Argument(help="The tag.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag off.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tag a run, or take a tag off."""
    _mark(run_id, "untag" if remove else "tag", tag, workspace, as_json)


def _mark(run_id: str, kind: str, text: str, workspace: Path | None, as_json: bool) -> None:
    from alignment.feedback.run_queue import Mark, add_mark

    with job(None, workspace, None, None) as work:
        add_mark(work._store("workspace"), Mark(run_id, kind, text, _me()))
    show({"run_id": run_id, kind: text}, as_json, "Noted")


@runs_app.command("promote")
def runs_promote(
    run_id: RunId,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    best: BestOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the policy of a finished PPO run the current one: the next round samples from it."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.promote(work.workspace, run_id, by=_me(), comment=comment, best=best)
    show({"current_policy": run_id, "best": best}, as_json, "Promoted")


@runs_app.command("compare")
def runs_compare(
    run_ids: Annotated[list[str], typer.Argument(help="Two or more runs.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Several runs beside each other: where their configurations differ, and what came out."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        found = control.compare(work.workspace, run_ids)
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


@runs_app.command("execute", hidden=True)
def runs_execute(run_id: RunId, workspace: WorkspaceOption = None, most: MostOption = 1) -> None:
    """Do a run of the queue in this process; what the queue itself calls."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.execute(work.workspace, run_id, most, work.progress)
