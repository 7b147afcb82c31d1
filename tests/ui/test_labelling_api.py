"""Tasks, rankings, drafts and practice through the API; the rules themselves: tests/test_labelling.py."""

import json

import pytest

from alignment.feedback import standing
from alignment.feedback.store import Store
from alignment.feedback.toxicity_scores import toxicity_scores
from alignment.records import Completion, Prompt
from tests.e2e.workspace import HOSTILE, PROMPTS
from tests.ui.client import SECRET, client_of, counted, ranks_of
from ui.api_labelling import prompt_format
from ui.app import create_app


def test_a_task_is_shown_submitted_once_and_counted(app, store):
    client = client_of(app, "labeler")
    first = client.post("/api/tasks/next").json()
    assert counted(first["progress"]) == (0, 2)
    assert client.post("/api/tasks/next").json() == first, "a reload shows the same board"
    task = first["task"]
    answer = {"token": task["token"], "ranks": ranks_of(task)}
    stored = client.post("/api/rankings", json=answer)
    assert stored.status_code == 200
    assert client.post("/api/rankings", json=answer).json() == stored.json(), (
        "a retry is one answer"
    )
    changed = {**answer, "ranks": {c: 1 for c in answer["ranks"]}}
    assert client.post("/api/rankings", json=changed).status_code == 409
    (ranking,) = store.rankings("people")
    assert ranking.ranks == answer["ranks"] and ranking.labeler_id == "labeler"
    assert ranking.positions == {c["id"]: i for i, c in enumerate(task["completions"])}
    assert stored.json()["positions"] == ranking.positions
    assert counted(client.get("/api/progress").json()) == (1, 1)


def test_when_nothing_is_left_the_task_is_null(app):
    client = client_of(app, "labeler")
    while task := client.post("/api/tasks/next").json()["task"]:
        client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    assert counted(client.get("/api/progress").json()) == (2, 0)


def test_prompts_and_completions_come_back_verbatim(app):
    client = client_of(app, "labeler")
    tasks = []
    while task := client.post("/api/tasks/next").json()["task"]:
        tasks.append(task)
        client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    hostile, chat = tasks
    assert {c["id"]: c["text"] for c in hostile["completions"]} == {
        f"hostile-{i}": text for i, text in enumerate(HOSTILE)
    }
    assert hostile["prompt"] == [{"role": "prompt", "content": PROMPTS[1].prompt}]
    assert chat["prompt"] == PROMPTS[0].prompt
    assert set(hostile["completions"][0]) == {"id", "text", "toxicity"}, (
        "nothing says which model wrote it"
    )


def test_another_labelers_token_is_refused(app, store):
    task = client_of(app, "labeler").post("/api/tasks/next").json()["task"]
    answer = {"token": task["token"], "ranks": ranks_of(task)}
    refused = client_of(app, "other").post("/api/rankings", json=answer)
    assert refused.status_code == 409 and "no longer open" in refused.json()["detail"]
    assert store.rankings() == []


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"hostile-0": 1}, "every completion"),
        ({**{f"hostile-{i}": 1 for i in range(4)}, "kind-0": 2}, "every completion"),
        ({f"hostile-{i}": i for i in range(4)}, "greater than or equal to 1"),
        ({f"hostile-{i}": True for i in range(4)}, "valid integer"),
        ({f"hostile-{i}": 1.5 for i in range(4)}, "valid integer"),
        ({f"hostile-{i}": 10**30 for i in range(4)}, "less than or equal"),
        ({}, "at least 1"),
        ([1, 2], "valid dictionary"),
        ({"\ud800": "x"}, "valid integer"),
    ],
)
def test_what_is_no_ranking_of_the_task_is_refused(shared, shared_workspace, ranks, message):
    client = client_of(shared, "labeler")
    token = client.post("/api/tasks/next").json()["task"]["token"]
    body = json.dumps({"token": token, "ranks": ranks})
    answer = client.post(
        "/api/rankings", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422 and message in answer.json()["detail"]
    assert Store(shared_workspace / "feedback.db").rankings() == []


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"token": "a b", "ranks": {"a": 1}}'])
def test_malformed_requests_are_refused_in_a_sentence(shared, body):
    answer = client_of(shared, "labeler").post(
        "/api/rankings", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422 and isinstance(answer.json()["detail"], str)


def test_guidelines_ship_and_can_be_the_projects_own(app, workspace):
    client = client_of(app, "labeler")
    shipped = client.get("/api/guidelines").json()
    for word in ("Harmless", "Honest", "Helpful", "Kind"):
        assert f"<strong>{word}.</strong>" in shipped["html"]
    (workspace / "guidelines.md").write_text(
        "# Ours\n\n<script>alert(1)</script> [x](javascript:alert(1))"
    )
    own = client.get("/api/guidelines").json()["html"]
    assert "<h1>Ours</h1>" in own and "<script" not in own and "href" not in own


def test_the_board_can_be_written_on_the_api(app):
    client = client_of(app, "labeler")
    task = client.post("/api/tasks/next").json()["task"]
    draft = {"ranks": {task["completions"][0]["id"]: 2}, "rationale": "so far"}
    body = {"token": task["token"], "version": 0, "draft": draft}
    assert client.put("/api/drafts", json=body).json() == {"version": 1}
    again = client_of(app, "labeler").post("/api/tasks/next").json()["task"]
    assert again["draft"]["ranks"] == draft["ranks"] and again["draft_version"] == 1
    other_tab = {**body, "draft": {"ranks": {}}}
    conflict = client.put("/api/drafts", json=other_tab)
    assert conflict.status_code == 409 and conflict.json()["version"] == 1
    assert conflict.json()["draft"]["rationale"] == "so far" and conflict.json()["detail"]

    answer = {
        "token": task["token"],
        "ranks": ranks_of(task),
        "flags": {task["completions"][0]["id"]: ["toxic"]},
        "confidence": 3,
    }
    stored = client.post("/api/rankings", json=answer).json()
    assert stored["ranking_id"] == 1 and stored["practice"] is None
    undone = client.post("/api/undo").json()
    assert undone["editing"] and undone["draft"]["ranks"] == answer["ranks"]
    assert undone["draft"]["flags"] == answer["flags"] and undone["draft_version"] == 0
    assert client.post("/api/tasks/release", json={"token": undone["token"]}).json() == {}
    (row,) = client.get("/api/answers").json()
    assert (
        row["editable"] and client.post(f"/api/answers/{row['ranking_id']}/edit").json()["editing"]
    )
    assert client.post("/api/tasks/next").json()["task"]["editing"], "a reload shows the edit"
    edit = client.post("/api/undo").json()
    changed = {"token": edit["token"], "ranks": {c["id"]: 1 for c in edit["completions"]}}
    assert client.post("/api/rankings", json=changed).json()["progress"]["done"] == 1

    second = client.post("/api/tasks/next").json()["task"]
    skipped = client.post("/api/skips", json={"token": second["token"], "reason": "Not my field."})
    assert skipped.json()["progress"]["left"] == 0
    (row,) = client.get("/api/skips").json()
    assert client.post(f"/api/skips/{row['task_id']}/reopen").json() == {}
    assert client.post("/api/tasks/next").json()["task"]["token"] == second["token"]
    assert client.post(f"/api/skips/{row['task_id']}/reopen").status_code == 409
    assert client.post("/api/skips/nothing/reopen").status_code == 409


def test_preferences_and_messages_are_the_accounts_own(app, store):
    client = client_of(app, "labeler")
    me = client.get("/api/me").json()
    assert me["preferences"] == {"blur_toxic": True, "break_minutes": 45, "shortcuts": True}
    assert (me["standing"], me["message"]) == ("ready", None)
    client.put("/api/me/preferences", json={"blur_toxic": False})
    changed = client.put("/api/me/preferences", json={"break_minutes": 30}).json()
    assert changed == {"blur_toxic": False, "break_minutes": 30, "shortcuts": True}
    assert client_of(app, "other").get("/api/me").json()["preferences"]["blur_toxic"]
    assert client.put("/api/me/preferences", json={"break_minutes": 1}).status_code == 422
    standing.decide(store, "labeler", "message", "Thank you!", "admin")
    assert client.get("/api/me").json()["message"] == "Thank you!"
    client.post("/api/me/messages/read")
    assert client.get("/api/me").json()["message"] is None
    standing.decide(store, "labeler", "pause", "Let us talk.", "admin")
    paused = client.post("/api/tasks/next").json()
    assert (paused["task"], paused["standing"]) == (None, "paused")
    assert client.get("/api/me").json()["message"] == "Let us talk."


def test_a_paused_labeler_cannot_submit(app, store):
    client = client_of(app, "labeler")
    task = client.post("/api/tasks/next").json()["task"]
    standing.decide(store, "labeler", "pause", "Let us talk.", "admin")
    refused = client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    assert refused.status_code == 403 and "Let us talk." in refused.json()["detail"]


def test_practice_is_shown_marked_and_answered_with_an_explanation(workspace):
    (workspace / "concord.yaml").write_text("labelling: {practice_tasks: 2}\n")
    client = client_of(create_app(workspace, secret=SECRET), "labeler")
    for number in (1, 2):
        shown = client.post("/api/tasks/next").json()
        assert shown["standing"] == "practice" and shown["task"]["practice"]
        assert shown["practice"]["done"] == number - 1 and shown["practice"]["needed"] == 2
        token = shown["task"]["token"]
        draft = {"token": token, "version": 0, "draft": {"rationale": "x"}}
        assert client.put("/api/drafts", json=draft).json() == {"version": 1}
        ids = sorted(c["id"] for c in shown["task"]["completions"])  # as the file orders them
        answer = {"token": token, "ranks": {i: rank for rank, i in enumerate(ids, start=1)}}
        told = client.post("/api/rankings", json=answer).json()["practice"]
        assert told["correct"] and told["explanation"] and told["expected"] == answer["ranks"]
        assert (told["done"], told["passed"]) == (number, number == 2)
    assert client.post("/api/tasks/next").json()["standing"] == "ready"


def test_toxic_completions_carry_a_score_that_is_kept(app, store):
    client = client_of(app, "labeler")
    store.add_prompts([Prompt("rude", "Hi")])
    texts = ("Have a lovely day.", "You stupid fucking idiot.")
    store.add_tasks([Completion(f"rude-{i}", "rude", t) for i, t in enumerate(texts)], 1)
    shown = client.post("/api/tasks/next").json()["task"]["completions"]
    scores = {c["id"]: c["toxicity"] for c in shown}
    assert scores["rude-0"] < 0.5 < scores["rude-1"]
    assert toxicity_scores(store, ["rude-1"]) == {"rude-1": scores["rude-1"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Say hello.", "plain"),
        ("# Title\n\nSome *text*", "markdown"),
        ("Look: `x = 1`", "markdown"),
        ("def f(x):\n    if x:\n        return 1\n", "code"),
        ("def f(x):\n    # twice\n    if x:\n        return 2 * x\n", "code"),
        ("Sort these:\n\n- if\n- for\n- while\n", "markdown"),
        ("1 < 2; it is.", "plain"),
    ],
)
def test_prompts_are_shown_as_what_they_look_like(text, found):
    assert prompt_format(text, "auto") == found
    assert prompt_format(text, "plain") == "plain"
