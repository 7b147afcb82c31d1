"""`concord runs`: ask for runs, watch them, end them, go on: the control room of the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment import cli_run_views
from alignment.cli_run_views import SOURCE_HELP, RunId, StageArgument
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
    me,
    show,
)

runs_app = typer.Typer(
    help="Runs: start, watch, stop, resume, compare; what was run, with which figures.",
    no_args_is_help=True,
)
MostOption = Annotated[int, typer.Option("--most", min=1, help="Runs that may work at once.")]
WATCH_SECONDS = 1.0
cli_run_views.add_commands(runs_app)


@runs_app.command("start")
def runs_start(
    stage: StageArgument,
    workspace: WorkspaceOption = None,
    source: Annotated[str | None, typer.Option(help=SOURCE_HELP)] = None,
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
        files = control.reading(work.workspace, stage, source)
        if stage == "round":
            asked = control.submit_round(work.workspace, config, by=me(), launch=launch)
        else:
            asked = [
                control.submit(work.workspace, stage, config, by=me(), files=files, launch=launch)
            ]
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
    """End a run (or the training in the folder of its --out): training writes a checkpoint first and can be resumed; a
    waiting run leaves the queue."""
    from alignment import control, run_folders
    from alignment.files import read_json
    from alignment.workspace import REQUEST_FILE, RUN_FILE

    folder = Path(run_id)
    if (folder / REQUEST_FILE).is_file():  # outside any workspace
        said = run_folders.stop_folder(folder, by=me(), at_once=now)
    else:
        if (folder / RUN_FILE).is_file():
            run_id = read_json(folder / RUN_FILE)["run_id"]
        with job(None, workspace, None, None) as work:
            work._store("workspace")
            said = control.stop(work.workspace, run_id, by=me(), at_once=now)
    show({"run_id": run_id, "message": said}, as_json, "Stop")


@runs_app.command("first")
def runs_first(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Let a waiting run start before the others in the queue."""
    from alignment.feedback import run_queue

    with job(None, workspace, None, None) as work:
        run_queue.move_to_front(work._store("workspace"), run_id, me())
    show({"run_id": run_id, "place": 1}, as_json, "Moved to the front")


@runs_app.command("resume")
def runs_resume(
    run_id: RunId,
    workspace: WorkspaceOption = None,
    watch: Annotated[bool, typer.Option(help="Stay and follow the run to its end.")] = True,
    most: MostOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Go on with a stopped or failed training run (or the folder of its --out) from its last whole checkpoint."""
    from alignment import control, run_folders
    from alignment.feedback import runs

    if (Path(run_id) / "run.json").is_file():
        with job(None, None, None, None) as work:
            figures = run_folders.resume_folder(Path(run_id), work.progress)
        show(figures, as_json, "Resumed")
        return
    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.reap(work.workspace)
        control.resume(work.workspace, run_id, by=me())
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
        cloned = control.clone(work.workspace, run_id, assignments or [], by=me())
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
        where = control.delete(work.workspace, run_id, by=me())
    show({"run_id": run_id, "files": str(where)}, as_json, "Deleted")


@runs_app.command("restore")
def runs_restore(
    run_id: RunId, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Bring a deleted run back."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.restore(work.workspace, run_id, by=me())
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
        add_mark(work._store("workspace"), Mark(run_id, kind, text, me()))
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
        control.promote(work.workspace, run_id, by=me(), comment=comment, best=best)
    show({"current_policy": run_id, "best": best}, as_json, "Promoted")


@runs_app.command("execute", hidden=True)
def runs_execute(run_id: RunId, workspace: WorkspaceOption = None, most: MostOption = 1) -> None:
    """Do a run of the queue in this process; what the queue itself calls."""
    from alignment import control

    with job(None, workspace, None, None) as work:
        work._store("workspace")
        control.execute(work.workspace, run_id, most, work.progress)
