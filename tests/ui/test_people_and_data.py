"""Imports, exports, and the People page."""

import json

import gradio as gr
import pytest

from alignment.feedback import credentials, standing
from tests.ui.client import client_of, gradio_request, handler, ranks_of


def send(client, what, content, kind="application/x-ndjson"):
    return client.post(f"/api/import/{what}", content=content, headers={"content-type": kind})


def test_engineers_import_and_export(app, store):
    client = client_of(app, "engineer")
    row = {"prompt": "How are you?", "completions": ["Fine, thanks.", "None of your business."]}
    assert send(client, "completions", json.dumps(row)).json()["tasks"] == 1
    assert send(client, "prompts", "prompt\nWhy?\n", "text/csv").json()["added"] == 1
    assert send(client, "prompts", b"x" * 70_000).status_code == 422, "read, for it is an import"
    assert send(client, "prompts", "x", "text/plain").status_code == 422
    assert send(client, "prompts", "{}", "application/json").status_code == 422
    surrogate = send(client, "prompts", '{"prompt": "\\ud800"}')
    assert surrogate.status_code == 422 and "surrogate" in surrogate.json()["detail"]
    assert send(client_of(app, "labeler"), "prompts", b"x" * 70_000).status_code == 413

    task = client.post("/api/tasks/next").json()["task"]
    client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    out = client.get("/api/export/rankings")
    assert out.headers["content-type"].startswith("application/x-ndjson")
    assert json.loads(out.text)["labeler_id"] == "engineer"
    assert len(client.get("/api/export/labelers").text.splitlines()) == 5
    assert client.get("/api/export/pairs").status_code == 409
    actions = [row["action"] for row in client_of(app, "admin").get("/api/audit").json()]
    assert {"import completions", "import prompts", "export rankings"} <= set(actions)


def test_half_a_character_is_refused_everywhere(app):
    client = client_of(app, "reviewer")
    token = client.post("/api/tasks/next").json()["task"]["token"]
    for method, path, body in (
        ("POST", "/api/skips", f'{{"token": "{token}", "reason": "\\ud800"}}'),
        ("PUT", "/api/drafts", f'{{"token": "{token}", "version": 0, "draft": {{"rationale": "\\ud800"}}}}'),
        ("POST", "/api/tokens", '{"name": "\\ud800"}'),
    ):  # fmt: skip
        json_ = {"content-type": "application/json"}
        assert client.request(method, path, content=body, headers=json_).status_code == 422, path


def test_quality_is_told_per_labeler(app):
    client = client_of(app, "labeler")
    while task := client.post("/api/tasks/next").json()["task"]:
        client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    table = client_of(app, "engineer").get("/api/quality").json()
    rows = {row["labeler_id"]: row for row in table["labelers"]}
    assert rows["labeler"]["answers"] == 2 and rows["labeler"]["position_bias"]["value"] == 1.0
    assert rows["other"]["undefined"]["gold_pass"]


def test_the_people_page_decides_and_invites_under_the_callers_name(app, store):
    decide, invite = handler(app, "/people", "decide"), handler(app, "/people", "invite")
    manager = gradio_request("engineer")
    decide("labeler", "pause", "Too <b>fast</b>.", manager)
    (decision,) = standing.decisions(store, "labeler")
    assert (decision["decided_by"], decision["reason"]) == ("engineer", "Too <b>fast</b>.")
    page = "".join(x for x in handler(app, "/people", "first")(manager) if isinstance(x, str))
    assert "Too &lt;b&gt;fast" in page and "<b>fast" not in page
    with pytest.raises(gr.Error):
        decide("labeler", "pause", "", manager)
    with pytest.raises(gr.Error, match="Only an admin may invite"):
        invite("admin", manager)
    link = invite("labeler", manager)[0].split("/invite/", 1)[1].split('"', 1)[0]
    assert credentials.invitation(store, link).role == "labeler"
    invite_back = handler(app, "/people", "invite_back")
    with pytest.raises(gr.Error, match="Choose under Labeler"):
        invite_back(None, manager)
    with pytest.raises(gr.Error, match="Only an admin"):
        invite_back("admin", manager)
    link = invite_back("labeler", manager)[0].split("/invite/", 1)[1].split('"', 1)[0]
    assert credentials.invitation(store, link).account_id == "labeler"
