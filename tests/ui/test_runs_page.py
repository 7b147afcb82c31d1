"""The control room's API: forms from the configuration, records piece by piece, actions under the caller's name."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from alignment import control
from alignment.config import Config
from alignment.feedback import people, run_queue, runs
from alignment.feedback.people import Labeler
from alignment.feedback.rounds import Figure, Round
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.records import Ranking
from alignment.training import ppo_watch
from alignment.training.ppo_alarm import HeldOut
from alignment.workspace import Workspace
from tests.e2e.workspace import PLAIN, PROMPTS, make_workspace
from tests.ui.client import SECRET, client_of
from ui import api_runs, run_form
from ui.app import create_app
from ui.rounds_chart import BOTTOM, TOP, rounds_chart
from ui.shell import ASSETS


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "workspace", PROMPTS, PLAIN)


@pytest.fixture
def engineer(workspace, monkeypatch):
    monkeypatch.setattr("alignment.control.dispatch", lambda *_: [])  # nothing starts here
    return client_of(create_app(workspace, secret=SECRET), "engineer")


def test_every_option_of_every_stage_has_its_field():
    for stage in run_queue.STAGES:
        made = run_form.fields(Config(), stage)
        assert [field["name"] for field in made] == list(
            type(getattr(Config(), stage)).model_fields
        )
        assert all(field["about"] for field in made)
        values = {field["name"]: field["value"] for field in made}
        config, problems = run_form.checked(Config(), stage, values, Path())
        assert problems == {}
        assert config == Config(), f"the form of {stage} changes what it shows"


def test_a_round_asks_whose_rankings_count():
    config, problems = run_form.checked(Config(), "round", {"labelers": "people"}, Path())
    assert config is not None and not problems and config.consensus.labelers == "people"
    _, problems = run_form.checked(Config(), "round", {"labelers": "nobody"}, Path())
    assert set(problems) == {"labelers"}


def test_what_is_wrong_is_said_at_its_field(engineer):
    wrong = {"kl_coef": -1, "batch_size": "many", "nonsense": 1}
    found = engineer.post("/api/runs/check", json={"stage": "ppo", "values": wrong}).json()
    assert set(found["problems"]) == {"kl_coef", "batch_size", "nonsense"}
    refused = engineer.post("/api/runs", json={"stage": "sample", "values": {"top_p": 2}})
    assert refused.status_code == 422
    assert "top_p" in refused.json()["detail"]
    together = {"batch_size": 64, "num_mini_batches": 7}
    found = engineer.post("/api/runs/check", json={"stage": "ppo", "values": together}).json()
    assert "multiple" in found["problems"][""]


def test_the_base_is_a_field_that_is_checked_and_recorded(engineer, workspace):
    form = engineer.get("/api/runs/form?stage=ppo").json()
    assert [(f["name"], f["kind"], f["value"]) for f in form["base"]] == [
        ("base_model", "text", "demo"),
        ("base_precision", "choice", "fp32"),
    ]
    assert engineer.get("/api/runs/form?stage=consensus").json()["base"] == []

    def wrong(**values):
        found = engineer.post("/api/runs/check", json={"stage": "sample", "values": values}).json()
        return found["problems"]

    (workspace / "empty").mkdir()
    assert "no folder" in wrong(base_model="./models/none")["base_model"]
    assert "config.json" in wrong(base_model="empty")["base_model"]
    assert "Name a base model" in wrong(base_model=" ")["base_model"]
    assert "size" in wrong(base_model="7B")["base_model"]
    assert "base_precision" in wrong(base_precision="fp8")
    assert wrong(base_model="Qwen/Qwen3-0.6B") == {}
    (workspace / "empty" / "config.json").write_text("{}")
    assert wrong(base_model="empty") == {}
    refused = engineer.post("/api/runs", json={"stage": "sample", "values": {"base_model": "7B"}})
    assert refused.status_code == 422
    chosen = {"base_model": "empty", "base_precision": "bf16"}
    answer = engineer.post("/api/runs", json={"stage": "sample", "values": chosen})
    [run_id] = answer.json()["queued"]
    with Workspace.open(workspace) as opened:
        assert run_queue.request_of(opened.store, run_id).config["base_model"] == "empty"
    shown = engineer.get(f"/api/runs/live?run={run_id}").json()["run"]["config"]
    assert (shown["base_model"], shown["base_precision"]) == ("empty", "bf16")
    found = engineer.post("/api/runs/check", json={"stage": "sample", "values": {}}).json()
    assert {"name": "base_model", "before": "empty", "now": "demo"} in found["differences"]
    assert "base_model: demo" in found["yaml"]


def test_a_rollout_that_cannot_be_dealt_out_to_the_processes_is_said_at_its_field(engineer):
    asked = {"stage": "ppo", "values": {}, "nproc": 3}
    found = engineer.post("/api/runs/check", json=asked).json()
    assert "multiple of 48" in found["problems"]["batch_size"]


def rank_all(workspace, name, simulated):
    with Workspace.open(workspace) as opened:
        people.add_labelers(opened.store, [Labeler(name, name, simulated)])
        opened.store.add_rankings(
            [
                Ranking(p, name, {f"{p}-{i}": i + 1 for i in range(4)}, simulated=simulated)
                for p in PLAIN
            ]
        )


def test_what_will_be_frozen_is_shown_with_people_and_simulated_labelers_apart(engineer, workspace):
    assert "no rankings" in engineer.get("/api/runs/reads?stage=consensus").json()["problem"]
    for name, simulated in (("ann", False), ("bob", False), ("sim", True)):
        rank_all(workspace, name, simulated)
    found = engineer.get("/api/runs/reads?stage=round").json()
    assert found["people"] == {
        "prompts": 2,
        "rankings": 4,
        "labelers": 2,
        "pairs": 12,
        "krippendorff_alpha": 1.0,
        "pairwise_agreement": 1.0,
    }
    assert (found["simulated"]["rankings"], found["simulated"]["krippendorff_alpha"]) == (2, None)
    assert "not mixed silently" in found["problem"]
    of_people = engineer.get("/api/runs/reads?stage=consensus&labelers=people").json()
    assert of_people["problem"] is None
    refused = engineer.post("/api/runs", json={"stage": "consensus"})
    assert refused.status_code == 422
    asked = {"stage": "consensus", "values": {"labelers": "people"}}
    assert engineer.post("/api/runs", json=asked).status_code == 200


def test_a_reward_model_shows_the_frozen_rankings_of_its_consensus(engineer, workspace):
    for name, simulated in (("ann", False), ("bob", False), ("sim", True)):
        rank_all(workspace, name, simulated)
    with Workspace.open(workspace) as opened:
        config = control.new_config(opened, ["consensus.labelers=people"], None)
        frozen = control.submit(opened, "consensus", config, by="eve")
        control.execute(opened, frozen)
        reward = control.submit(
            opened, "reward", config, by="eve", files=control.reading(opened, "reward", frozen)
        )
        runs.save_run(opened.store, replace(runs.run(opened.store, reward), status="finished"))
        usable = runs.run(opened.store, frozen).metrics["usable_pairs"]
    rank_all(workspace, "late", simulated=False)
    for stage, source in (("reward", frozen), ("ppo", reward)):
        found = engineer.get(f"/api/runs/reads?stage={stage}&source={source}").json()
        assert (found["consensus"], found["usable_pairs"]) == (frozen, usable)
        assert (found["people"]["labelers"], found["simulated"]) == (2, None)
    assert engineer.get("/api/runs/reads?stage=sample").json() is None


def test_the_form_shows_yaml_and_what_changed_since_the_last_run(engineer):
    values = {"kl_coef": 0.3}
    found = engineer.post("/api/runs/check", json={"stage": "ppo", "values": values}).json()
    assert "kl_coef: 0.3" in found["yaml"]
    assert found["last_run"] == "ppo-1"


def test_a_run_is_asked_for_under_the_callers_name(engineer, workspace):
    answer = engineer.post("/api/runs", json={"stage": "sample", "values": {"temperature": 0.7}})
    [run_id] = answer.json()["queued"]
    with Workspace.open(workspace) as opened:
        request = run_queue.request_of(opened.store, run_id)
        assert request.created_by == "engineer"
        assert request.config["sample"]["temperature"] == 0.7
        assert runs.run(opened.store, run_id).status == "queued"
    said = engineer.post(f"/api/runs/{run_id}/stop", json={}).json()["message"]
    assert "queue" in said
    refused = engineer.post("/api/runs", json={"stage": "reward", "source": "ppo-1"})
    assert refused.status_code == 422


def test_notes_and_tags_show_in_the_list(engineer, workspace):
    engineer.post("/api/runs/ppo-1/note", json={"text": "look here"})
    engineer.post("/api/runs/ppo-1/tag", json={"text": "best"})
    found = engineer.get("/api/runs/live?run=ppo-1")
    assert [m["kind"] for m in found.json()["run"]["marks"]] == ["note", "tag"]
    assert {m["by"] for m in found.json()["run"]["marks"]} == {"engineer"}
    again = engineer.get(
        "/api/runs/live?run=ppo-1", headers={"If-None-Match": found.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert engineer.get("/api/runs/live?run=nothing").status_code == 404
    assert engineer.post("/api/runs/nothing/note", json={"text": "x"}).status_code == 404
    store = Store(workspace / "feedback.db")
    assert run_queue.tags(run_queue.marks(store, "ppo-1")) == ["best"]
    store.close()


def test_the_curves_name_what_the_ppo_trainer_writes():
    """The panels that an engineer looks at first, against the names in a run's metrics.jsonl."""
    script = (ASSETS / "curves.js").read_text()
    panels = script[script.index("const PANELS") : script.index("const SILENT")]
    drawn = {
        key
        for keys in re.findall(r"\[([^\[\]]*)\]\]?,?", panels)
        for key in re.findall('"([a-z_]+)"', keys)
    }
    logs = dict.fromkeys(ppo_watch.FIGURES, 1.0)
    held_out = HeldOut(1, [0.1, 0.2], [1.0, 1.1], [0.5, 0.4], None)
    written = set(ppo_watch.iteration_figures(logs)) | set(held_out.figures())
    first = {
        "reward",
        "eval_reward",
        "kl",
        "policy_loss",
        "value_loss",
        "entropy",
        "clip_fraction",
        "value_clip_fraction",
        "explained_variance",
        "eval_toxicity",
        "eval_cost",
        "seconds_generation",
        "seconds_scoring",
        "seconds_update",
        "memory_mb",
    }
    assert first <= written, "the trainer does not write these"
    assert first <= drawn, "no panel is named for these"


def test_a_growing_record_comes_in_whole_lines(engineer, workspace):
    path = workspace / "runs" / "ppo-1" / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iter')
    first = engineer.get("/api/runs/ppo-1/lines/metrics").json()
    assert first["rows"] == [{"iteration": 1}, {"iteration": 2}]
    with path.open("a") as file:
        file.write('ation": 3}\n')
    more = engineer.get(f"/api/runs/ppo-1/lines/metrics?start={first['end']}").json()
    assert more["rows"] == [{"iteration": 3}]
    live = engineer.get(f"/api/runs/live?run=ppo-1&metrics={first['end']}").json()
    assert live["more"] == {"metrics": {**more, "start": first["end"]}}
    assert engineer.get("/api/runs/live?run=ppo-1&metrics=-1").status_code == 422
    (path.parent / "run.log").write_text("first\nlast <script>\n")
    log = engineer.get("/api/runs/ppo-1/log?start=-14").json()
    assert log["text"] == "last <script>\n"
    assert json.dumps(log)
    outside = engineer.get("/api/runs/..%2F..%2Fetc/log")
    assert outside.status_code in (404, 422)


def test_a_piece_may_end_within_a_character(engineer, workspace, monkeypatch):
    path = workspace / "runs" / "ppo-1" / "samples.jsonl"
    rows = [{"iteration": 1, "completion": "ä" * 8}, {"iteration": 2, "completion": "ö" * 8}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    whole = path.stat().st_size
    for size in range(whole // 2, whole):
        monkeypatch.setattr(api_runs, "LARGEST_PIECE_BYTES", size)
        first = engineer.get("/api/runs/ppo-1/lines/samples").json()
        more = engineer.get(f"/api/runs/ppo-1/lines/samples?start={first['end']}").json()
        assert [*first["rows"], *more["rows"]] == rows, size


def test_a_word_that_a_request_does_not_know_is_refused(engineer):
    asked = {"stage": "reward", "sorce": "consensus-1"}
    assert engineer.post("/api/runs", json=asked).status_code == 422
    assert engineer.post("/api/runs/ppo-1/note", json={"txt": "why"}).status_code == 422


def test_a_round_without_a_figure_leaves_a_gap_in_the_picture():
    def one(number, before, after):
        return Round(number, "", (), None, None, before, after, None)

    measured = Figure(0.6, 0.5, 0.7), Figure(0.1, 0.05, 0.15)
    rounds = [one(1, *measured), one(2, *measured), one(3, None, None), one(4, *measured)]
    root = ElementTree.fromstring(rounds_chart("toxicity", rounds))
    svg = "{http://www.w3.org/2000/svg}"
    before, after = root.findall(f"{svg}g")
    for series, mark in ((before, "circle"), (after, "rect")):
        assert len(series.findall(f"{svg}{mark}")) == 3 + 1, "three rounds and the legend"
        assert len(series.findall(f"{svg}line")) == 3
        [line] = series.findall(f"{svg}polyline")
        assert len(line.get("points").split()) == 2, "the line ends before the gap"
    heights = [float(c.get("cy")) for c in before.findall(f"{svg}circle")[:3]]
    assert heights == [pytest.approx(BOTTOM - 0.6 / 0.8 * (BOTTOM - TOP), abs=0.06)] * 3
    assert "prefers-color-scheme: dark" in root.find(f"{svg}style").text
    ElementTree.fromstring(rounds_chart("agreement", []))


def test_the_pictures_are_made_from_the_runs_records(engineer, workspace):
    with Workspace.open(workspace) as opened:
        runs.save_run(opened.store, Run("sample-1", "sample", {}, "finished"))
        alpha = {"krippendorff_alpha": 0.5, "krippendorff_low": 0.4, "krippendorff_high": 0.6}
        runs.save_run(opened.store, Run("consensus-2", "consensus", {}, "finished", metrics=alpha))
    drawn = engineer.get("/api/runs/rounds/agreement.svg")
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert drawn.text.count("<circle") == 2, "round 1 and the legend"
    assert engineer.get("/api/runs/rounds/toxicity.svg").text.count("<circle") == 1
    assert engineer.get("/api/runs/rounds/nothing.svg").status_code == 422
    [one] = engineer.get("/api/runs/live").json()["rounds"]
    assert one["alpha"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert one["toxicity_before"] is None


def test_everybody_is_told_their_next_thing_and_where_to_do_it(engineer, workspace):
    app = engineer.app
    told = engineer.get("/api/next").json()
    assert (told["text"].startswith("Import prompts"), told["page"]["path"]) == (True, "/runs/")
    told = client_of(app, "reviewer").get("/api/next").json()
    assert told == {
        "text": "1 evaluation awaits a verdict.",
        "page": {"path": "/review/", "title": "Review"},
    }
    told = client_of(app, "labeler").get("/api/next").json()
    assert (told["text"], told["page"]["path"]) == (
        "Rank completions: 2 tasks are open.",
        "/board/",
    )


def test_the_best_policy_of_a_run_is_promoted(engineer, workspace):
    folder = workspace / "runs" / "ppo-9"
    with Workspace.open(workspace) as opened:
        runs.save_run(opened.store, Run("ppo-9", "ppo", {}, "finished", folder=str(folder)))
        refused = engineer.post("/api/runs/ppo-9/promote-best", json={"text": ""})
        assert refused.status_code >= 400 and "keeps no best policy" in refused.json()["detail"]
        (folder / "best").mkdir(parents=True)
        (folder / "best" / "adapter_config.json").write_text("{}")
        done = engineer.post("/api/runs/ppo-9/promote-best", json={"text": "kinder"})
        assert done.status_code == 200, done.text
        mark = run_queue.current_policy(opened.store)
        assert (mark.run_id, mark.kind, mark.value) == ("ppo-9", "promote-best", "kinder")
    assert engineer.get("/api/runs/live").json()["current_policy"] == "ppo-9"
