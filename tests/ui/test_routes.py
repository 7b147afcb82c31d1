"""Which role reaches which path, and what is refused whoever asks."""

import inspect
import json
import subprocess
import sys
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.routing import Mount

from alignment.feedback import people
from tests.ui.client import SECRET, client_of, walked
from ui import guard
from ui.sessions import Sessions

ANYBODY = {*people.ROLES, None}
SIGNED_IN = set(people.ROLES)
MANAGERS = {"engineer", "admin"}
TOKEN_HOLDERS = {"reviewer", "engineer", "admin"}

# Who may reach what. A route that is missing here fails `test_no_route_is_forgotten`.
ROUTES = {
    ("GET", "/"): SIGNED_IN,
    ("GET", "/favicon.ico"): ANYBODY,
    ("GET", "/sign-in"): ANYBODY,
    ("POST", "/sign-in"): ANYBODY,
    ("POST", "/sign-out"): SIGNED_IN,
    ("GET", "/assets"): ANYBODY,
    ("GET", "/api/openapi.json"): SIGNED_IN,
    ("GET", "/api/me"): SIGNED_IN,
    ("GET", "/api/next"): SIGNED_IN,
    ("POST", "/api/tasks/next"): SIGNED_IN,
    ("POST", "/api/rankings"): SIGNED_IN,
    ("GET", "/api/progress"): SIGNED_IN,
    ("PUT", "/api/me/preferences"): SIGNED_IN,
    ("POST", "/api/me/messages/read"): SIGNED_IN,
    ("POST", "/api/tasks/release"): SIGNED_IN,
    ("PUT", "/api/drafts"): SIGNED_IN,
    ("POST", "/api/skips"): SIGNED_IN,
    ("GET", "/api/skips"): SIGNED_IN,
    ("POST", "/api/skips/{task_id}/reopen"): SIGNED_IN,
    ("POST", "/api/undo"): SIGNED_IN,
    ("GET", "/api/answers"): SIGNED_IN,
    ("POST", "/api/answers/{ranking_id}/edit"): SIGNED_IN,
    ("GET", "/api/guidelines"): SIGNED_IN,
    ("POST", "/api/blind/next"): SIGNED_IN,
    ("POST", "/api/blind/answers"): SIGNED_IN,
    ("GET", "/account"): SIGNED_IN,
    ("POST", "/account/password"): SIGNED_IN,
    ("POST", "/account/tokens"): SIGNED_IN,
    ("POST", "/account/tokens/{token_id}/revoke"): SIGNED_IN,
    ("GET", "/api/tokens"): TOKEN_HOLDERS,
    ("POST", "/api/tokens"): TOKEN_HOLDERS,
    ("DELETE", "/api/tokens/{token_id}"): TOKEN_HOLDERS,
    ("POST", "/api/sign-out-everywhere"): SIGNED_IN,
    ("POST", "/api/labelers/{labeler_id}/{action}"): MANAGERS,
    ("GET", "/api/quality"): MANAGERS,
    ("GET", "/people"): MANAGERS,
    ("POST", "/api/invitations"): MANAGERS,
    ("GET", "/api/audit"): MANAGERS,
    ("POST", "/api/import/{what}"): MANAGERS,
    ("GET", "/api/export/{what}"): MANAGERS,
    ("GET", "/invite/{secret}"): ANYBODY,
    ("POST", "/invite/{secret}"): ANYBODY,
    ("GET", "/api/runs/live"): {"engineer", "admin"},
    ("GET", "/api/runs/rounds/{what}.svg"): {"engineer", "admin"},
    ("GET", "/api/runs/compare"): {"engineer", "admin"},
    ("GET", "/api/runs/compare.csv"): {"engineer", "admin"},
    ("GET", "/api/runs/{run_id}/lines/{name}"): {"engineer", "admin"},
    ("GET", "/api/runs/{run_id}/log"): {"engineer", "admin"},
    ("GET", "/api/runs/form"): {"engineer", "admin"},
    ("POST", "/api/runs/check"): {"engineer", "admin"},
    ("POST", "/api/runs/plan"): {"engineer", "admin"},
    ("GET", "/api/runs/reads"): {"engineer", "admin"},
    ("POST", "/api/runs"): {"engineer", "admin"},
    ("POST", "/api/runs/{run_id}/{act}"): {"engineer", "admin"},
    ("GET", "/reports/{run_id}"): {"reviewer", "engineer", "admin"},
    ("GET", "/reports/{run_id}/{name}"): {"reviewer", "engineer", "admin"},
    ("GET", "/blind"): SIGNED_IN,
    ("GET", "/board"): SIGNED_IN,
    ("GET", "/runs"): {"engineer", "admin"},
    ("GET", "/consensus"): {"engineer", "admin"},
    ("GET", "/exports/{what}"): {"engineer", "admin"},
    ("GET", "/review"): {"reviewer", "engineer", "admin"},
}
PROBES = {
    "/account/tokens/{token_id}/revoke": "/account/tokens/1/revoke",
    "/api/runs/rounds/{what}.svg": "/api/runs/rounds/toxicity.svg",
    "/api/runs/form": "/api/runs/form?stage=ppo",
    "/api/runs/reads": "/api/runs/reads?stage=ppo",
    "/api/runs/compare": "/api/runs/compare?ids=reward-1",
    "/api/runs/compare.csv": "/api/runs/compare.csv?ids=reward-1",
    "/api/runs/{run_id}/lines/{name}": "/api/runs/ppo-1/lines/metrics",
    "/api/runs/{run_id}/log": "/api/runs/ppo-1/log",
    "/api/runs/{run_id}/{act}": "/api/runs/ppo-1/stop",
    "/assets": "/assets/concord.css",
    "/reports/{run_id}": "/reports/evaluate-1",
    "/reports/{run_id}/{name}": "/reports/evaluate-1/comparison.json",
    "/blind": "/blind/",
    "/invite/{secret}": "/invite/nothing",
    "/board": "/board/",
    "/people": "/people/",
    "/runs": "/runs/",
    "/consensus": "/consensus/",
    "/exports/{what}": "/exports/rankings",
    "/review": "/review/",
}
GRADIO_PROBES = (
    ("GET", "config"),
    ("GET", "gradio_api/info"),
    ("GET", "gradio_api/app_id"),
    ("GET", "gradio_api/startup-events"),
    ("GET", "theme.css"),
    ("POST", "gradio_api/run/predict"),
    ("POST", "gradio_api/queue/join"),
    ("POST", "gradio_api/upload"),
)


def test_no_route_is_forgotten(shared):
    found = walked(shared)
    assert found == set(ROUTES)


@pytest.mark.parametrize("role", [*people.ROLES, None])
def test_every_route_is_open_to_its_roles_only(shared, role):
    client = client_of(shared, role)
    for (method, path), allowed in ROUTES.items():
        stale = {"X-CSRF-Token": "stale"} if path == "/api/sign-out-everywhere" else {}
        answer = client.request(method, PROBES.get(path, path), headers=stale)
        where = f"{method} {path} as {role}"
        if role in allowed:
            assert answer.status_code not in (401, 405), where
            assert answer.status_code != 404 or path.startswith("/invite/"), where
            # A form without its token is refused by the page itself, not for the role.
            forms = ("/sign-in", "/sign-out", "/invite", "/account")
            assert answer.status_code != 403 or path.startswith(forms) or stale, where
        else:
            assert answer.status_code == (401 if role is None else 403), where
            assert answer.json()["detail"]


@pytest.mark.parametrize("role", [*people.ROLES, None])
@pytest.mark.parametrize("page", ["/runs", "/review", "/board", "/consensus"])
def test_gradio_endpoints_are_open_to_the_roles_of_their_page_only(shared, page, role):
    client = client_of(shared, role)
    allowed = ROUTES["GET", page]
    for method, path in GRADIO_PROBES:
        answer = client.request(method, f"{page}/{path}", json={} if method == "POST" else None)
        if role not in allowed:
            assert answer.status_code == (401 if role is None else 403), path
        else:
            assert answer.status_code not in (401, 403), path


def test_what_gradio_offers_and_nobody_uses_is_closed(shared):
    client = client_of(shared, "admin")
    for page in ("/board", "/runs", "/review"):
        for method, path in (
            ("POST", "upload"),
            ("POST", "component_server"),
            ("GET", "file=/etc/hostname"),
            ("GET", "file/etc/hostname"),
            ("GET", "proxy=https://example.org/"),
            ("POST", "deep_link"),
        ):
            answer = client.request(method, f"{page}/gradio_api/{path}", json={})
            assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such page.")
        assert client.get(f"{page}/gradio_api/runs").status_code == 404, (
            "no history of runs is kept"
        )


@pytest.mark.parametrize("name", ["labeler", "nobody", None])
def test_every_gradio_handler_checks_the_role_itself(shared, name):
    signer = Sessions(SECRET)
    cookies = {} if name is None else {signer.cookie: signer.issue(name)}
    request = gr.Request(request=SimpleNamespace(cookies=cookies, query_params={}))
    checked = 0
    for route in shared.routes:
        if not isinstance(route, Mount) or not hasattr(route.app, "get_blocks"):
            continue
        for function in route.app.get_blocks().fns.values():
            names = inspect.signature(function.fn).parameters
            with pytest.raises(gr.Error):
                function.fn(**{n: request if n == "request" else None for n in names})
            checked += 1
    assert checked >= 15, "the handlers of the review, people and consensus pages"


def test_unknown_paths_are_closed(shared):
    assert client_of(shared, None).get("/nothing").status_code == 401
    assert client_of(shared, "admin").get("/nothing").status_code == 404
    assert guard.roles_of("/runsX") == frozenset()


def test_people_are_led_to_the_sign_in_page_and_home(shared):
    html = {"accept": "text/html"}
    away = client_of(shared, None).get("/runs/?run=ppo-1", headers=html)
    assert (away.status_code, away.headers["location"]) == (
        303,
        "/sign-in?next=/runs/%3Frun%3Dppo-1",
    )
    homes = {"labeler": "/board/", "engineer": "/runs/", "reviewer": "/review/", "admin": "/runs/"}
    for role, home in homes.items():
        assert client_of(shared, role).get("/", headers=html).headers["location"] == home
    assert "labeler" in client_of(shared, "labeler").get("/runs/", headers=html).text


def test_nothing_on_the_pages_comes_from_elsewhere(shared):
    answer = client_of(shared, "admin").get("/board/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "https:" not in policy and "*" not in policy
    config = json.loads(
        answer.text.split("window.gradio_config = ", 1)[1].split(";</script>", 1)[0]
    )
    assert config["analytics_enabled"] is False and config["run_history"] is False
    assert config["stylesheets"] == []


def test_importing_the_interface_imports_no_torch_and_writes_no_file(tmp_path):
    code = "import sys, ui.app; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
    from ui.shell import HERE

    assert not list(HERE.rglob("*.pyi"))


# Requests from elsewhere


STATE_CHANGES = [key for key in ROUTES if key[0] != "GET" and key[1].startswith("/api/")]


def test_state_changes_need_the_csrf_token(app, store):
    client = client_of(app, "admin", csrf=False)
    others = client_of(app, "other").headers["X-CSRF-Token"]
    for method, path in STATE_CHANGES:
        for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": others}):
            answer = client.request(method, path, json={}, headers=headers)
            assert answer.status_code == 403 and "CSRF" in answer.json()["detail"], path
    assert store.rows("SELECT * FROM leases") == []


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
def test_requests_from_other_sites_are_refused_everywhere(app, store, headers):
    client = client_of(app, "engineer")
    for path in ("/api/tasks/next", "/sign-out", "/review/gradio_api/run/predict"):
        assert client.post(path, json={}, headers=headers).status_code == 403
    assert store.rows("SELECT * FROM leases") == []
    own = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert client.post("/api/tasks/next", headers=own).status_code == 200


def test_large_bodies_are_refused_before_they_are_read(shared):
    client = client_of(shared, "labeler")
    assert client.post("/api/rankings", content=b"x" * 70_000).status_code == 413
    assert client_of(shared, None).post("/sign-in", content=b"x" * 70_000).status_code == 413

    def chunks():
        yield b"{}"

    assert client.post("/api/rankings", content=chunks()).status_code == 411


def test_openapi_describes_the_labelling_api(shared):
    paths = client_of(shared, "labeler").get("/api/openapi.json").json()["paths"]
    assert set(paths) == {path for _, path in ROUTES if path.startswith("/api/")} - {
        "/api/openapi.json"
    }
