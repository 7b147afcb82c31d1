"""The consensus page and the exports: what engineers see and do, and that nobody else sees anything of it."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from alignment.feedback import people
from alignment.feedback.known_orders import known_orders
from alignment.feedback.store import Store
from alignment.records import Ranking
from tests.e2e.workspace import HOSTILE, PLAIN, PROMPTS, make_workspace
from tests.ui.client import SECRET, client_of, gradio_request, handler
from ui.app import create_app


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Both labelers ranked both prompts, in opposite orders; `other` holds that nothing is acceptable."""
    folder = make_workspace(tmp_path_factory.mktemp("template") / "workspace", PROMPTS, PLAIN)
    store = Store(folder / "feedback.db")
    for prompt, texts in PLAIN.items():
        ids = [f"{prompt}-{n}" for n in range(len(texts))]
        ranks = dict(zip(ids, range(1, 5), strict=True))
        back = dict(zip(ids, range(4, 0, -1), strict=True))
        store.add_rankings(
            [
                Ranking(prompt, "labeler", ranks),
                Ranking(prompt, "other", back, none_acceptable=True),
            ]
        )
    store.close()
    return folder


def event(**data):
    return SimpleNamespace(_data=data)


def text_of(values):
    return "".join(part for part in values if isinstance(part, str))


def test_an_engineer_sees_who_said_what_and_nothing_of_it_is_markup(shared):
    first, choose = (handler(shared, "/consensus", name) for name in ("first", "choose"))
    request = gradio_request("engineer", prompt="hostile")
    page = text_of(first(request))
    for text in HOSTILE:
        assert text not in page.replace(HOSTILE[1], "").replace(HOSTILE[2], "") or "<" not in text
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "labeler" in page and "other" in page and "nothing acceptable" in page
    assert "No reliable signal" in page
    other = text_of(choose("people", event(prompt_id="kind"), request))
    assert "You are welcome." in other and "user: Hello" in other
    assert "There is no prompt" in text_of(choose("people", event(prompt_id="<b>"), request))


def test_settling_is_stored_under_the_name_of_the_session_and_can_be_withdrawn(app, store):
    settle, withdraw = (handler(app, "/consensus", name) for name in ("settle", "withdraw"))
    request = gradio_request("engineer")
    ranks = {"kind-0": 1, "kind-2": 1, "kind-1": 2}
    sent = event(prompt_id="kind", ranks=ranks, comment=" polite ", set_by="somebody else")
    page = text_of(settle("people", sent, request))
    (order,) = known_orders(store)
    assert (order.ranks, order.source) == (ranks, "adjudication")
    assert (order.set_by, order.comment) == ("engineer", "polite")
    assert "Settled by an expert" in page and 'data-order="1"' in page
    page = text_of(withdraw("people", event(prompt_id="kind", order_id=1), request))
    assert known_orders(store) == [] and "Settled by an expert" not in page
    with pytest.raises(gr.Error, match="stands"):
        withdraw("people", event(prompt_id="kind", order_id=1), request)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({}, "no adjudication"),
        ({"prompt_id": "kind", "ranks": [1]}, "no adjudication"),
        ({"prompt_id": "kind", "ranks": {"kind-0": 1}}, "at least two"),
        ({"prompt_id": "kind", "ranks": {"kind-0": 1, "ghost": 2}}, "'ghost'"),
        ({"prompt_id": "hostile", "ranks": {"kind-0": 1, "kind-1": 2}}, "not one of prompt"),
        ({"prompt_id": "kind", "ranks": {"kind-0": "x", "kind-1": 2}}, "whole numbers"),
        ({"prompt_id": "kind", "ranks": {"kind-0": 1, "kind-1": 2}, "comment": "x" * 2000}, "1000"),
    ],
)
def test_what_is_no_adjudication_is_refused(shared, shared_workspace, sent, says):
    with pytest.raises(gr.Error, match=says):
        handler(shared, "/consensus", "settle")("people", event(**sent), gradio_request("engineer"))
    assert known_orders(Store(shared_workspace / "feedback.db")) == []


@pytest.mark.parametrize("name", ["labeler", "reviewer", "nobody"])
def test_nobody_but_engineers_sees_or_settles_anything(shared, shared_workspace, name):
    request = gradio_request(name)
    sent = event(prompt_id="kind", ranks={"kind-0": 1, "kind-1": 2}, order_id=1)
    calls = {
        "first": (request,),
        "choose_kind": ("people", "kind", request),
        "refresh": ("people", 0, request),
        "choose": ("people", sent, request),
        "settle": ("people", sent, request),
        "withdraw": ("people", sent, request),
    }
    for function, arguments in calls.items():
        with pytest.raises(gr.Error):
            handler(shared, "/consensus", function)(*arguments)
    assert known_orders(Store(shared_workspace / "feedback.db")) == []


@pytest.mark.parametrize("role", [*people.ROLES, None])
@pytest.mark.parametrize("what", ["rankings", "pairs", "labelers", "prompts", "known-orders"])
def test_exports_are_for_engineers(shared, role, what):
    answer = client_of(shared, role).get(f"/exports/{what}")
    if role in ("engineer", "admin"):
        assert answer.status_code in (200, 422)
    else:
        assert answer.status_code == (401 if role is None else 403)
        assert "kind-0" not in answer.text


def test_exports_are_json_lines_of_the_store(app, store):
    handler(app, "/consensus", "settle")(
        "people",
        event(prompt_id="kind", ranks={"kind-0": 1, "kind-1": 2}),
        gradio_request("admin"),
    )
    client = client_of(app, "engineer")

    def rows(what, **query):
        answer = client.get(f"/exports/{what}", params=query)
        assert answer.status_code == 200, answer.text
        assert "attachment" in answer.headers["content-disposition"]
        return [json.loads(line) for line in answer.text.splitlines()]

    assert [Ranking.from_json(row) for row in rows("rankings")] == store.rankings("people")
    assert {row["labeler_id"] for row in rows("labelers")} == {"labeler", "other"}
    assert {row["prompt_id"] for row in rows("prompts")} == {"kind", "hostile"}
    assert [(r["chosen_id"], r["rejected_id"]) for r in rows("pairs")] == [("kind-0", "kind-1")]
    assert rows("pairs")[0]["chosen"] == [{"role": "assistant", "content": "You are welcome."}]
    assert [row["set_by"] for row in rows("known-orders")] == ["admin"]
    assert rows("rankings", labelers="simulated") == []
    nothing = client.get("/exports/pairs", params={"labelers": "simulated"})
    assert nothing.status_code == 422 and "no rankings of simulated" in nothing.json()["detail"]
    assert client.get("/exports/passwords").status_code == 422


def test_the_page_sends_only_what_changed_and_follows_new_rankings(app, store):
    first, refresh = (handler(app, "/consensus", name) for name in ("first", "refresh"))
    request = gradio_request("engineer")
    _, seen, *shown = first(request)[:4]
    assert "<dd>4 <small>of 2 prompts" in shown[0]
    quiet = refresh("people", seen, request)
    assert quiet[1] == seen and all(part == gr.skip() for part in (quiet[0], *quiet[2:]))
    store.add_rankings([Ranking("kind", "engineer", {"kind-0": 1, "kind-1": 2})])
    moved = refresh("people", seen, request)
    assert "<dd>5 <small>of 2 prompts" in moved[2]


def test_an_empty_workspace_says_how_to_begin(tmp_path):
    folder = make_workspace(tmp_path / "workspace", PROMPTS, PLAIN)
    shown = handler(create_app(folder, secret=SECRET), "/consensus", "first")(
        gradio_request("admin")
    )
    assert "Nobody has ranked anything yet" in text_of(shown)
