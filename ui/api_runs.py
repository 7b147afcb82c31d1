"""The control room's API: watch, end, resume and compare runs. For engineers and admins.

The page asks `/api/runs/live` every 1.5 seconds, and gets what has been added to the files of its run with it. The rest
of the answer is made once for all who ask, so that many open pages cost little.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from alignment import comparing, control
from alignment.errors import ConcordError
from alignment.feedback import run_queue, runs
from alignment.feedback.next_steps import next_steps
from alignment.feedback.rounds import rounds
from alignment.feedback.run_queue import Mark
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.workspace import Workspace
from ui.api_models import Body
from ui.api_start import Engineer, RunId, start_routes
from ui.callers import CSRF
from ui.rounds_chart import What, rounds_chart
from ui.run_files import run_folder

FRESH_SECONDS, FRESH_RUN_SECONDS = 1.0, 0.4  # with the wait of the page less than 2 s
MOST_WATCHED = 64  # runs whose last answer is kept
LARGEST_PIECE_BYTES = 200_000  # of a log or record, in one answer
MOST_COMPARED = 12
_CSV: dict[str, Any] = {"content": {"text/csv": {}}}
_SVG: dict[str, Any] = {"content": {"image/svg+xml": {}}}
Start = Annotated[int, Query(ge=0)]


class Said(BaseModel):
    message: str


class Action(Body):
    """`text`: of a note or tag, or the reason of a promotion; `values`: changes for a clone."""

    text: Annotated[str, Field(max_length=4000)] = ""
    values: Annotated[dict[str, Any], Field(default_factory=dict)]


class Fresh:
    """A value that is made anew once it is older than `seconds`, by one caller while the others wait."""

    def __init__(self, make: Callable[[], Any], seconds: float = FRESH_SECONDS) -> None:
        self._make, self._seconds, self._lock = make, seconds, threading.Lock()
        self._value, self._made = None, -1e9

    def get(self) -> Any:
        with self._lock:
            if time.monotonic() - self._made > self._seconds:
                self._value, self._made = self._make(), time.monotonic()
            return self._value


def run_routes(store: Store, folder: Path) -> APIRouter:
    """The routes below `/api/runs`."""
    router = APIRouter(tags=["runs"])
    workspace = Workspace(folder, store)
    listing = Fresh(lambda: _listing(workspace))
    router.include_router(_watching(workspace, listing))
    router.include_router(start_routes(workspace))
    router.include_router(_acting(workspace))
    return router


def _watching(workspace: Workspace, listing: Fresh) -> APIRouter:
    router = APIRouter(prefix="/runs")

    def compared(ids: str) -> dict[str, Any]:
        chosen = dict.fromkeys(ids.split(","))
        if len(chosen) > MOST_COMPARED:
            raise HTTPException(422, f"At most {MOST_COMPARED} runs can be compared at once.")
        return comparing.compare(workspace, [_known(workspace, name).run_id for name in chosen])

    @lru_cache(maxsize=MOST_WATCHED)
    def told(run: str | None) -> Fresh:
        """The answer about a run but for its last brace, its ETag, and the sizes of the run's files."""

        def make() -> tuple[str, str, dict[str, int]]:
            chosen = None if run is None else _detail(workspace, _known(workspace, run))
            text = json.dumps({**listing.get(), "run": chosen})
            tag = hashlib.sha256(text.encode()).hexdigest()[:20]
            return text[:-1], f'"{tag}"', {} if chosen is None else chosen["sizes"]

        return Fresh(make, FRESH_RUN_SECONDS)

    @router.get("/live", response_model=dict[str, Any])
    def live(
        request: Request,
        who: Engineer,
        run: RunId | None = None,
        metrics: Start = 0,
        samples: Start = 0,
        warnings: Start = 0,
    ) -> Response:
        """The runs, the round, and the chosen run with the sizes of its growing files; 304 where nothing changed.

        `metrics`, `samples`, `warnings`: bytes of these files that the caller has. What has been added since comes in
        `more` as `/lines` gives it; after a long time only the latter does.
        """
        text, tag, sizes = told(run).get()
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        starts = {"metrics": metrics, "samples": samples, "warnings": warnings}
        more = {
            name: _rows(_folder(workspace, run) / control.RECORDS[name], start)
            for name, start in starts.items()
            if run is not None and 0 < sizes[name] - start <= LARGEST_PIECE_BYTES
        }
        body = f'{text}, "more": {json.dumps(more)}}}'
        return Response(body, media_type="application/json", headers={"ETag": tag})

    @router.get("/rounds/{what}.svg", response_class=Response, responses={200: _SVG})
    def picture(who: Engineer, what: What) -> Response:
        """Toxicity or agreement over rounds, as a picture."""
        drawn = rounds_chart(what, rounds(workspace.store))
        return Response(drawn, media_type="image/svg+xml", headers={"cache-control": "no-store"})

    @router.get("/compare")
    def compare(who: Engineer, ids: str) -> dict[str, Any]:
        """Runs beside each other; `ids` parted by commas."""
        return compared(ids)

    @router.get("/compare.csv", response_class=Response, responses={200: _CSV})
    def compare_csv(who: Engineer, ids: str) -> Response:
        """The same as a table: a row per run."""
        drawn = comparing.compare_csv(compared(ids))
        name = {
            "content-disposition": 'attachment; filename="runs.csv"',
            "cache-control": "no-store",
        }
        return Response(drawn, media_type="text/csv", headers=name)

    @router.get("/{run_id}/lines/{name}")
    def lines(
        who: Engineer,
        run_id: RunId,
        name: Literal["metrics", "samples", "warnings"],
        start: int = 0,
    ) -> dict[str, Any]:
        """The rows of a growing record from byte `start` on, whole lines only; `end` is where to go on."""
        return _rows(_folder(workspace, run_id) / control.RECORDS[name], start)

    @router.get("/{run_id}/log")
    def log(who: Engineer, run_id: RunId, start: int = 0) -> dict[str, Any]:
        """The log from byte `start` on; a negative start counts from its end."""
        data, end = _piece(_folder(workspace, run_id) / control.RECORDS["log"], start)
        return {"text": data.decode("utf-8", "replace"), "end": end}

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

    def first(run_id: str, _: Action, by: str) -> str:
        run_queue.move_to_front(workspace.store, run_id, by)
        return "It is the next to start."

    acts: dict[str, Callable[[str, Action, str], str]] = {
        "stop": lambda run_id, _, by: control.stop(workspace, run_id, by=by),
        "stop-now": lambda run_id, _, by: control.stop(workspace, run_id, by=by, at_once=True),
        "first": first,
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
            "first",
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
                "outcome": comparing.outcome(workspace, run),
            }
            for run in runs.runs(store)
        ],
        "queue": [request.run_id for request in run_queue.queue(store)],
        "current_policy": None if promoted is None else promoted.run_id,
        "rounds": [one.to_json() for one in rounds(store)],
        "next": next_steps(store),
    }


def _detail(workspace: Workspace, run: Run) -> dict[str, Any]:
    """One run in full, with the sizes of its growing files."""
    folder = Path(run.folder or "")
    request = run_queue.request_of(workspace.store, run.run_id)
    sizes = {name: _size(folder / file) for name, file in control.RECORDS.items()}
    evaluation = comparing.evaluation_of(workspace, run) if run.stage == "ppo" else None
    return {
        **run.to_json(),
        "config": control.options_of(workspace, run),
        "progress": control.progress_of(run),
        "sizes": sizes,
        "report": (folder / "report.html").is_file(),
        "evaluation": None if evaluation is None else evaluation.run_id,
        "marks": [
            {"kind": m.kind, "value": m.value, "by": m.by, "created": m.created}
            for m in run_queue.marks(workspace.store, run.run_id)
        ],
        "asked_by": "" if request is None else request.created_by,
    }


def _rows(path: Path, start: int) -> dict[str, Any]:
    """The rows of a growing record from byte `start` on, whole lines only, and the byte after them."""
    data, end = _piece(path, start)
    whole = data[: data.rfind(b"\n") + 1]
    rows = [json.loads(line) for line in whole.split(b"\n") if line]
    return {"rows": rows, "start": start, "end": end - len(data) + len(whole)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _piece(path: Path, start: int) -> tuple[bytes, int]:
    """A piece of a growing file from byte `start`, and the byte after it."""
    size = _size(path)
    begin = max(0, size + start) if start < 0 else min(start, size)
    if size == begin:
        return b"", size
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(LARGEST_PIECE_BYTES)
    return data, begin + len(data)
