"""The control room's API: start, watch, end, resume and compare runs. For engineers and admins.

The page asks `/api/runs/live` every two seconds; what it gets is made once a second at most, however many ask.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, Field

from alignment import control
from alignment.config import Config
from alignment.errors import ConcordError
from alignment.feedback import run_queue, runs
from alignment.feedback.next_steps import next_steps
from alignment.feedback.people import Account
from alignment.feedback.rounds import rounds
from alignment.feedback.run_queue import Mark
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.workspace import Workspace
from ui import run_form
from ui.callers import CSRF, one_of
from ui.guard import ENGINEERS
from ui.rounds_chart import What, rounds_chart
from ui.run_files import run_folder

FRESH_SECONDS = 1.0
LARGEST_PIECE_BYTES = 200_000  # of a log or record, in one answer
Engineer = Annotated[Account, Depends(one_of(ENGINEERS))]
Stage = Literal["sample", "consensus", "reward", "ppo", "evaluate", "round"]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]
_SVG: dict[str, Any] = {"content": {"image/svg+xml": {}}}
_FILES = {"metrics": "metrics.jsonl", "samples": "samples.jsonl", "warnings": "warnings.jsonl"}


class Start(BaseModel):
    """A run to be started. `values`: the form of the stage; `source`: the run whose output is read."""

    stage: Stage
    values: dict[str, Any] = {}
    source: RunId | None = None
    nproc: Annotated[int, Field(ge=1, le=64)] = 1
    fsdp: bool = False


class Checked(BaseModel):
    """What the form would do: field -> problem, the YAML beside it, and the differences to the stage's last run."""

    problems: dict[str, str]
    yaml: str
    differences: list[dict[str, Any]]
    last_run: str | None


class Started(BaseModel):
    queued: list[str]


class Said(BaseModel):
    message: str


class Action(BaseModel):
    """`text`: of a note or tag, or the reason of a promotion; `values`: changes for a clone."""

    text: Annotated[str, Field(max_length=4000)] = ""
    values: dict[str, Any] = {}


class Fresh:
    """A value that is made anew once it is older than `FRESH_SECONDS`, by one caller while the others wait."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._value, self._made = None, -1e9

    def get(self) -> Any:
        with self._lock:
            if time.monotonic() - self._made > FRESH_SECONDS:
                self._value, self._made = self._make(), time.monotonic()
            return self._value


def run_routes(store: Store, folder: Path) -> APIRouter:
    """The routes below `/api/runs`."""
    router = APIRouter(tags=["runs"])
    workspace = Workspace(folder, store)
    listing = Fresh(lambda: _listing(workspace))
    router.include_router(_watching(workspace, listing))
    router.include_router(_starting(workspace))
    router.include_router(_acting(workspace))
    return router


def _watching(workspace: Workspace, listing: Fresh) -> APIRouter:
    router = APIRouter(prefix="/runs")

    @router.get("/live")
    def live(
        request: Request, response: Response, who: Engineer, run: RunId | None = None
    ) -> dict[str, Any]:
        """The runs, the round, and the chosen run with the sizes of its growing files. 304 where nothing changed."""
        found = {**listing.get(), "run": None}
        if run is not None:
            found["run"] = _detail(workspace, _known(workspace, run))
        tag = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:20]
        if request.headers.get("if-none-match") == f'"{tag}"':
            raise HTTPException(304, headers={"ETag": f'"{tag}"'})
        response.headers["ETag"] = f'"{tag}"'
        return found

    @router.get("/rounds/{what}.svg", response_class=Response, responses={200: _SVG})
    def picture(who: Engineer, what: What) -> Response:
        """Toxicity or agreement over rounds, as a picture."""
        drawn = rounds_chart(what, rounds(workspace.store))
        return Response(drawn, media_type="image/svg+xml", headers={"cache-control": "no-store"})

    @router.get("/compare")
    def compare(who: Engineer, ids: str) -> dict[str, Any]:
        """Runs beside each other; `ids` parted by commas."""
        chosen = [_known(workspace, run_id).run_id for run_id in ids.split(",")][:12]
        return control.compare(workspace, chosen)

    @router.get("/{run_id}/lines/{name}")
    def lines(
        who: Engineer,
        run_id: RunId,
        name: Literal["metrics", "samples", "warnings"],
        start: int = 0,
    ) -> dict[str, Any]:
        """The rows of a growing record from byte `start` on, whole lines only; `end` is where to go on."""
        text, end = _piece(_folder(workspace, run_id) / _FILES[name], start)
        whole, _, rest = text.rpartition("\n")
        rows = [json.loads(line) for line in whole.split("\n") if line]
        return {"rows": rows, "end": end - len(rest.encode())}

    @router.get("/{run_id}/log")
    def log(who: Engineer, run_id: RunId, start: int = 0) -> dict[str, Any]:
        """The log from byte `start` on; a negative start counts from its end."""
        text, end = _piece(_folder(workspace, run_id) / control.LOG_FILE, start)
        return {"text": text, "end": end}

    return router


def _starting(workspace: Workspace) -> APIRouter:
    router = APIRouter(prefix="/runs")

    def config() -> Config:
        return control.new_config(workspace, [], None)

    @router.get("/form")
    def form(who: Engineer, stage: Stage) -> dict[str, Any]:
        """The fields of a stage with their present values, and the runs whose output it can read."""
        if stage == "round":
            return {"fields": [], "sources": [], "launched": False}
        return {
            "fields": run_form.fields(config(), stage),
            "sources": _sources(workspace, stage),
            "launched": stage in run_form.LAUNCHED,
        }

    @router.post("/check", dependencies=[CSRF])
    def check(body: Start, who: Engineer) -> Checked:
        """Look at a form before anything starts."""
        if body.stage == "round":
            return Checked(problems={}, yaml="", differences=[], last_run=None)
        made, problems = run_form.checked(config(), body.stage, body.values)
        last = next(iter(runs.runs(workspace.store, body.stage)), None)
        shown = made or config()
        return Checked(
            problems=problems,
            yaml="" if made is None else run_form.as_yaml(made, body.stage),
            differences=run_form.differences(
                shown, body.stage, None if last is None else last.config
            ),
            last_run=None if last is None else last.run_id,
        )

    @router.post("", dependencies=[CSRF])
    def start(body: Start, who: Engineer) -> Started:
        """Put a run, or the whole round, into the queue; it starts when its turn comes."""
        launch = {"fsdp" if body.fsdp else "nproc": body.nproc} if body.nproc > 1 else {}
        if body.stage == "round":
            queued = control.submit_round(workspace, config(), by=who.account_id)
        else:
            made, problems = run_form.checked(config(), body.stage, body.values)
            if made is None:
                field, message = next(iter(problems.items()))
                raise HTTPException(422, f"{field}: {message}" if field else message)
            files = control.reading(workspace, body.stage, body.source)
            queued = [
                control.submit(
                    workspace, body.stage, made, by=who.account_id, files=files, launch=launch
                )
            ]
        control.dispatch(workspace)
        return Started(queued=queued)

    return router


def _acting(workspace: Workspace) -> APIRouter:
    router = APIRouter(prefix="/runs")

    def mark(kind: str) -> Callable[[str, Action, str], str]:
        def act(run_id: str, action: Action, by: str) -> str:
            run_queue.add_mark(workspace.store, Mark(run_id, kind, action.text, by))
            return "Kept."

        return act

    def promote(best: bool) -> Callable[[str, Action, str], str]:
        def act(run_id: str, action: Action, by: str) -> str:
            control.promote(workspace, run_id, by=by, comment=action.text, best=best)
            return "It is the current policy now; the next round samples from it."

        return act

    def resume(run_id: str, _: Action, by: str) -> str:
        control.resume(workspace, run_id, by=by)
        control.dispatch(workspace)
        return "It goes on from its last checkpoint when its turn comes."

    def clone(run_id: str, action: Action, by: str) -> str:
        changes = [f"{key}={json.dumps(value)}" for key, value in action.values.items()]
        made = control.clone(workspace, run_id, changes, by=by)
        control.dispatch(workspace)
        return made

    def delete(run_id: str, _: Action, by: str) -> str:
        control.delete(workspace, run_id, by=by)
        return "It lies in the workspace's bin."

    def restore(run_id: str, _: Action, by: str) -> str:
        control.restore(workspace, run_id, by=by)
        return "It is back."

    acts: dict[str, Callable[[str, Action, str], str]] = {
        "stop": lambda run_id, _, by: control.stop(workspace, run_id, by=by),
        "stop-now": lambda run_id, _, by: control.stop(workspace, run_id, by=by, at_once=True),
        "resume": resume,
        "clone": clone,
        "delete": delete,
        "restore": restore,
        "promote": promote(best=False),
        "promote-best": promote(best=True),
        "note": mark("note"),
        "tag": mark("tag"),
        "untag": mark("untag"),
    }

    @router.post("/{run_id}/{act}", dependencies=[CSRF])
    def do(
        run_id: RunId,
        act: Literal[
            "stop",
            "stop-now",
            "resume",
            "clone",
            "delete",
            "restore",
            "promote",
            "promote-best",
            "note",
            "tag",
            "untag",
        ],
        action: Action,
        who: Engineer,
    ) -> Said:
        """Do something with a run."""
        _known(workspace, run_id)
        return Said(message=acts[act](run_id, action, who.account_id))

    return router


def _known(workspace: Workspace, run_id: str) -> Run:
    try:
        return runs.run(workspace.store, run_id)
    except ConcordError as error:
        raise HTTPException(404, str(error)) from None


def _folder(workspace: Workspace, run_id: str) -> Path:
    """The folder of a run of this workspace."""
    return run_folder(workspace.folder, _known(workspace, run_id).run_id)


def _listing(workspace: Workspace) -> dict[str, Any]:
    """All runs in short, the round, and what to do next."""
    store = workspace.store
    gone, promoted = run_queue.deleted(store), run_queue.current_policy(store)
    marks: dict[str, list[Mark]] = {}
    for one in run_queue.marks(store):
        marks.setdefault(one.run_id, []).append(one)
    return {
        "runs": [
            {
                "run_id": run.run_id,
                "stage": run.stage,
                "status": run.status,
                "started": run.started,
                "ended": run.ended,
                "message": run.message,
                "tags": run_queue.tags(marks.get(run.run_id, [])),
                "deleted": run.run_id in gone,
                "progress": control.progress_of(run) if run.status in run_queue.ACTIVE else None,
                "outcome": control.outcome(workspace, run),
            }
            for run in runs.runs(store)
        ],
        "current_policy": None if promoted is None else promoted.run_id,
        "rounds": [one.to_json() for one in rounds(store)],
        "next": next_steps(store),
    }


def _detail(workspace: Workspace, run: Run) -> dict[str, Any]:
    """One run in full, with the sizes of its growing files."""
    folder = Path(run.folder or "")
    request = run_queue.request_of(workspace.store, run.run_id)
    sizes = {name: _size(folder / file) for name, file in _FILES.items()}
    evaluation = control.evaluation_of(workspace, run) if run.stage == "ppo" else None
    return {
        **run.to_json(),
        "progress": control.progress_of(run),
        "sizes": {**sizes, "log": _size(folder / control.LOG_FILE)},
        "report": (folder / "report.html").is_file(),
        "evaluation": None if evaluation is None else evaluation.run_id,
        "marks": [
            {"kind": m.kind, "value": m.value, "by": m.by, "created": m.created}
            for m in run_queue.marks(workspace.store, run.run_id)
        ],
        "asked_by": "" if request is None else request.created_by,
    }


def _sources(workspace: Workspace, stage: str) -> list[dict[str, str]]:
    """The finished runs whose output the stage can read, newest first, each with its counts in a few words."""
    source = control.source_stage(stage)
    if source is None:
        return []
    gone = run_queue.deleted(workspace.store)
    found = [r for r in runs.runs(workspace.store, source) if r.status == "finished"]
    return [
        {"run_id": run.run_id, "about": _about(run.metrics)}
        for run in found
        if run.run_id not in gone
    ]


_ABOUT = (
    ("usable_pairs", "{:.0f} pairs"),
    ("rankings", "{:.0f} rankings"),
    ("agreement_with_consensus", "agreement {:.2f}"),
    ("accuracy", "accuracy {:.2f}"),
    ("reward_last", "reward {:+.2f}"),
    ("kl", "KL {:.2f}"),
)


def _about(metrics: dict[str, Any]) -> str:
    known = [(words, metrics.get(key)) for key, words in _ABOUT]
    return ", ".join(w.format(v) for w, v in known if isinstance(v, int | float))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _piece(path: Path, start: int) -> tuple[str, int]:
    """A piece of a growing text file from byte `start`, and the byte after it."""
    size = _size(path)
    begin = max(0, size + start) if start < 0 else min(start, size)
    if size == begin:
        return "", size
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(LARGEST_PIECE_BYTES)
    return data.decode("utf-8", "replace"), begin + len(data)
