"""Whatever the control room can do, `concord runs ...` can do too, on the same store."""

import json
import shutil
from typing import get_args

import pytest
import typer
from fastapi.routing import APIRoute
from typer.testing import CliRunner

from alignment import control
from alignment.cli import app as cli
from alignment.config import Config
from alignment.feedback import audit, run_queue, runs
from alignment.feedback.run_queue import Mark, Request
from alignment.feedback.runs import Run
from alignment.workspace import Workspace
from docs import build
from tests.e2e.workspace import PLAIN, PROMPTS, make_workspace
from tests.ui.client import SECRET, client_of, walked
from ui.api_runs import run_routes
from ui.app import create_app

# What the page asks for -> the command that does the same.
WAYS = {
    "GET /live": ("list", "show", "queue", "round"),
    "GET /rounds/{what}.svg": ("round",),
    "GET /compare": ("compare",),
    "GET /compare.csv": ("compare",),
    "GET /{run_id}/lines/{name}": ("log",),
    "GET /{run_id}/log": ("log",),
    "GET /form": ("check",),
    "POST /check": ("check",),
    "GET /reads": ("check",),
    "POST /plan": ("check",),
    "POST ": ("start",),
}
# Action -> the words of the command, the run it is done to, and the text that goes with it.
ACTIONS = {
    "stop": ("stop {run}", "waiting", ""),
    "stop-now": ("stop {run} --now", "waiting", ""),
    "first": ("first {run}", "waiting", ""),
    "resume": ("resume {run} --no-watch", "stopped", ""),
    "clone": ("clone {run}", "trained", ""),
    "delete": ("delete {run}", "trained", ""),
    "restore": ("restore {run}", "gone", ""),
    "promote": ("promote {run} --comment why", "trained", "why"),
    "promote-best": ("promote {run} --best --comment why", "trained", "why"),
    "note": ("note {run} why", "trained", "why"),
    "tag": ("tag {run} why", "trained", "why"),
    "untag": ("tag {run} known --remove", "trained", "known"),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A workspace with a run in each state."""
    folder = make_workspace(tmp_path_factory.mktemp("parity") / "workspace", PROMPTS, PLAIN)
    with Workspace.open(folder) as opened:
        states = {
            "trained": "finished",
            "stopped": "stopped",
            "gone": "finished",
            "ahead": "queued",
            "waiting": "queued",
        }
        for name, status in states.items():
            place = folder / "runs" / name
            (place / "best").mkdir(parents=True)
            (place / "best" / "adapter_config.json").write_text("{}")
            run = Run(name, "ppo", Config().ppo.model_dump(mode="json"), folder=f"runs/{name}")
            request = Request(name, "ppo", Config().model_dump(mode="json"), {"reward_model": "x"})
            run_queue.enqueue(opened.store, run, request)
            if status != "queued":
                run_queue.end(opened.store, name, status, None)
        run_queue.add_mark(opened.store, Mark("gone", "delete", "", "eve"))
        run_queue.add_mark(opened.store, Mark("trained", "tag", "known", "eve"))
    return folder


@pytest.fixture
def no_process(monkeypatch):
    monkeypatch.setattr(control, "dispatch", lambda *_: [])


def copy(template, folder):
    """A copy whose runs lie in the copy."""
    made = shutil.copytree(template, folder)
    with Workspace.open(made) as opened, opened.store.writing() as db:
        db.execute("UPDATE runs SET folder = ? || '/runs/' || run_id", [str(made)])
    return made


def commanded(folder, *words):
    done = CliRunner().invoke(cli, ["runs", *words, "-w", str(folder), "--json"])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return json.loads(done.stdout.strip().splitlines()[-1])


def seen(folder):
    """What the store and the folders say, but for who and when, and the ids of clones."""
    with Workspace.open(folder) as opened:
        store, own = opened.store, ("trained", "stopped", "gone", "ahead", "waiting")
        return (
            sorted((r.run_id if r.run_id in own else r.stage, r.status) for r in runs.runs(store)),
            [(m.run_id, m.kind, m.value) for m in run_queue.marks(store)],
            [r.run_id if r.run_id in own else r.stage for r in run_queue.queue(store)],
            sorted(path.name for path in (folder / "bin").glob("*")),
        )


def test_every_route_and_action_of_the_page_has_its_command(template):
    commands = {name for name, _ in build._leaves("concord", typer.main.get_command(cli))}
    with Workspace.open(template) as opened:
        router = run_routes(opened.store, template)
        routes = {f"{m} {path.removeprefix('/runs')}" for m, path in walked(router)}
    assert routes - {"POST /{run_id}/{act}"} == set(WAYS), "a route without a command"
    for command in [word for words in WAYS.values() for word in words]:
        assert f"concord runs {command}" in commands
    assert actions(router) == set(ACTIONS), "an action without a command"


def actions(router) -> set[str]:
    """The choices of `act` that the route takes."""
    [route] = [route for route in routes_of(router) if route.path.endswith("/{act}")]
    [act] = [field for field in route.dependant.path_params if field.name == "act"]
    return set(get_args(act.field_info.annotation))


def routes_of(router):
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from routes_of(route.original_router)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_page_and_the_command_do_the_same(template, tmp_path, no_process, action):
    words, run, text = ACTIONS[action]
    by_page, by_command = copy(template, tmp_path / "a"), copy(template, tmp_path / "b")
    before = seen(by_page)
    page = client_of(create_app(by_page, secret=SECRET), "engineer")
    answer = page.post(f"/api/runs/{run}/{action}", json={"text": text})
    assert answer.status_code == 200, answer.text
    commanded(by_command, *words.format(run=run).split())
    assert seen(by_command) == seen(by_page) != before


def test_both_show_the_same(template, tmp_path, no_process):
    folder = copy(template, tmp_path / "w")
    record = folder / "runs" / "trained"
    (record / "run.log").write_text("one\ntwo\n")
    (record / "metrics.jsonl").write_text('{"iteration": 1}\n')
    page = client_of(create_app(folder, secret=SECRET), "engineer")
    live = page.get("/api/runs/live").json()
    listed = commanded(folder, "list", "--all")["runs"]
    assert [(r["run_id"], r["status"], r["deleted"]) for r in listed] == [
        (r["run_id"], r["status"], r["deleted"]) for r in live["runs"]
    ]
    queued = [row["run_id"] for row in commanded(folder, "queue")["queue"] if row["place"]]
    assert queued == live["queue"] == ["ahead", "waiting"]
    commanded(folder, "first", "waiting")
    assert [row["run_id"] for row in commanded(folder, "queue")["queue"]][-2:] == [
        "waiting",
        "ahead",
    ]
    told = commanded(folder, "round")
    assert (told["rounds"], told["next"]) == (live["rounds"], live["next"])
    assert commanded(folder, "log", "trained", "--last", "1")["lines"] == ["two"]
    assert commanded(folder, "log", "trained", "--of", "metrics")["lines"] == ['{"iteration": 1}']
    ids = "trained,stopped"
    written = tmp_path / "runs.csv"
    found = commanded(folder, "compare", "trained", "stopped", "--csv", str(written))
    assert found == page.get(f"/api/runs/compare?ids={ids}").json()
    assert written.read_text() == page.get(f"/api/runs/compare.csv?ids={ids}").text
    again = CliRunner().invoke(
        cli, ["runs", "compare", "trained", "stopped", "--csv", str(written), "-w", str(folder)]
    )
    assert "exists already" in str(again.exception)


def test_a_run_is_checked_and_started_with_what_it_reads(template, tmp_path, no_process):
    folder = copy(template, tmp_path / "w")
    page = client_of(create_app(folder, secret=SECRET), "engineer")
    looked = commanded(folder, "check", "evaluate", "--source", "trained", "--set", "seed=3")
    asked = page.post("/api/runs/check", json={"stage": "evaluate", "values": {"seed": 3}}).json()
    assert looked["last_run"] == asked["last_run"] == "evaluate-1"
    assert looked["differences"] == {
        d["name"]: {"before": d["before"], "now": d["now"]} for d in asked["differences"]
    }
    assert looked["differences"]["seed"] == {"before": 0, "now": 3}
    assert looked["reads"] == {"policy": str(folder / "runs" / "trained")}
    assert looked["rankings"] == page.get("/api/runs/reads?stage=evaluate").json()
    with Workspace.open(folder) as opened:
        (folder / "runs" / "agreed").mkdir()
        run_queue.enqueue(
            opened.store,
            Run("agreed", "consensus", {}, folder="runs/agreed"),
            Request("agreed", "consensus", Config().model_dump(mode="json"), {}),
        )
        run_queue.end(opened.store, "agreed", "finished", None)
    trained = commanded(folder, "check", "reward", "--set", "base_model=nowhere/to-be-found")
    assert "nowhere/to-be-found" in trained["plan"]["problem"]
    made = commanded(folder, "start", "evaluate", "--source", "trained")["run_id"]
    with Workspace.open(folder) as opened:
        assert run_queue.request_of(opened.store, made).files == looked["reads"]
    refused = CliRunner().invoke(
        cli, ["runs", "check", "ppo", "--set", "kl_coef=-1", "-w", str(folder)]
    )
    assert "kl_coef" in str(refused.exception)


def test_an_export_by_command_is_on_record_as_one_by_the_page(template, tmp_path):
    folder = copy(template, tmp_path / "w")
    out = str(tmp_path / "prompts.jsonl")
    done = CliRunner().invoke(cli, ["export", "prompts", "--out", out, "-w", str(folder)])
    assert done.exit_code == 0, done.output
    client_of(create_app(folder, secret=SECRET), "engineer").get("/exports/rankings")
    with Workspace.open(folder) as opened:
        by_page, by_command = audit.entries(opened.store)[:2]
    assert (by_page["action"], by_command["action"]) == ("export rankings", "export prompts")
    assert by_command["detail"] == {"rows": 2, "file": out}
    assert by_command["who"]
