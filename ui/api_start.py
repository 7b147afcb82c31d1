"""The control room's API for what is not started yet: the form of a stage, what it would read, whether it fits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, Field

from alignment import control, run_data
from alignment.config import Config
from alignment.errors import ConcordError
from alignment.feedback import run_queue
from alignment.feedback.people import Account
from alignment.feedback.runs import Run
from alignment.planner import NotYet, Planner
from alignment.workspace import Workspace
from ui import run_form
from ui.api_models import Body
from ui.callers import CSRF, one_of
from ui.guard import ENGINEERS

Engineer = Annotated[Account, Depends(one_of(ENGINEERS))]
Stage = Literal["sample", "consensus", "reward", "ppo", "evaluate", "round"]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]


class Start(Body):
    """A run to be started. `values`: the form of the stage and its base; `source`: the run whose output is read."""

    stage: Stage
    values: Annotated[dict[str, Any], Field(default_factory=dict)]
    source: RunId | None = None
    nproc: Annotated[int, Field(ge=1, le=64)] = 1
    fsdp: bool = False


class Checked(BaseModel):
    """What the form would do: field -> problem, the YAML beside it, and the differences to the stage's last run."""

    problems: dict[str, str]
    yaml: str
    differences: list[dict[str, Any]]
    last_run: str | None


class Planned(BaseModel):
    """Memory and time of each stage that trains (`run_plan.plan_run`), or why there is none; `pending`: ask again."""

    stages: dict[str, dict[str, Any]]
    problem: str | None = None
    pending: bool = False


class Started(BaseModel):
    queued: list[str]


def start_routes(workspace: Workspace) -> APIRouter:
    """The routes below `/api/runs` that come before a run."""
    router = APIRouter(prefix="/runs")
    planner = Planner(workspace.folder)

    def config() -> Config:
        return control.new_config(workspace, [], None)

    def looked_at(body: Start) -> tuple[Config | None, dict[str, str]]:
        return run_form.checked(config(), body.stage, body.values, workspace.folder, body.nproc)

    def made(body: Start) -> Config:
        """The configuration of a form; 422 with the first of its problems."""
        found, problems = looked_at(body)
        if found is None:
            field, message = next(iter(problems.items()))
            raise HTTPException(422, f"{field}: {message}" if field else message)
        return found

    @router.get("/form")
    def form(who: Engineer, stage: Stage) -> dict[str, Any]:
        """The fields of a stage and of its base with their present values, and the runs whose output it can read."""
        if stage in (*control.TRAINING, "round"):
            planner.warm()
        return {
            "base": run_form.base_fields(config(), stage),
            "fields": [] if stage == "round" else run_form.fields(config(), stage),
            "sources": _sources(workspace, stage),
            "launched": stage in control.TRAINING,
        }

    @router.get("/reads")
    def reads(
        who: Engineer, stage: Stage, source: RunId | None = None, labelers: str = "auto"
    ) -> dict[str, Any] | None:
        """The rankings behind a run (`run_data.learns_from`), which are frozen at the start or have been before."""
        return run_data.learns_from(workspace, stage, labelers, source)

    @router.post("/check", dependencies=[CSRF])
    def check(body: Start, who: Engineer) -> Checked:
        """Look at a form before anything starts."""
        found, problems = looked_at(body)
        last_run, changed = (
            (None, {})
            if body.stage == "round"
            else control.differences(workspace, body.stage, found or config())
        )
        return Checked(
            problems=problems,
            yaml="" if found is None else run_form.as_yaml(found, body.stage),
            differences=[{"name": name, **values} for name, values in changed.items()],
            last_run=last_run,
        )

    @router.post("/plan", dependencies=[CSRF])
    def plan(body: Start, who: Engineer) -> Planned:
        """Whether what the form asks for fits this machine, and roughly how long it takes."""
        return _planned(workspace, planner, made(body), body)

    @router.post("", dependencies=[CSRF])
    def start(body: Start, who: Engineer) -> Started:
        """Put a run, or the whole round, into the queue; it starts when its turn comes."""
        queued = _submitted(workspace, made(body), body, who.account_id)
        control.dispatch(workspace)
        return Started(queued=queued)

    return router


def _submitted(workspace: Workspace, config: Config, body: Start, by: str) -> list[str]:
    launch = {"fsdp" if body.fsdp else "nproc": body.nproc} if body.nproc > 1 else {}
    if body.stage == "round":
        return control.submit_round(workspace, config, by=by, launch=launch)
    files = control.reading(workspace, body.stage, body.source)
    return [control.submit(workspace, body.stage, config, by=by, files=files, launch=launch)]


def _planned(workspace: Workspace, planner: Planner, config: Config, body: Start) -> Planned:
    stages = {}
    try:
        files = control.reading(workspace, body.stage, body.source)
        for stage in control.TRAINING:
            if body.stage in (stage, "round"):
                texts = run_data.longest_texts(workspace, stage, files)
                stages[stage] = planner.plan_run(config, stage, body.nproc, body.fsdp, texts)
    except NotYet:
        return Planned(stages={}, pending=True)
    except ConcordError as error:
        return Planned(stages={}, problem=str(error))
    return Planned(stages=stages)


def _sources(workspace: Workspace, stage: str) -> list[dict[str, Any]]:
    """The finished runs whose output the stage can read, newest first, with counts in a few words and their base."""
    source = control.source_stage(stage)
    if source is None:
        return []
    return [
        {
            "run_id": run.run_id,
            "about": _about(run),
            "base": control.options_of(workspace, run).get("base_model"),
        }
        for run in run_queue.finished(workspace.store, source)
    ]


_ABOUT = (
    ("usable_pairs", "{:.0f} pairs"),
    ("rankings", "{:.0f} rankings"),
    ("agreement_with_consensus", "agreement {:.2f}"),
    ("accuracy", "accuracy {:.2f}"),
    ("reward_last", "reward {:+.2f}"),
    ("kl", "KL {:.2f}"),
)


def _about(run: Run) -> str:
    known = [(words, run.metrics.get(key)) for key, words in _ABOUT]
    return ", ".join(w.format(v) for w, v in known if isinstance(v, int | float))
