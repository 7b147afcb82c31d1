import inspect
import json
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from alignment.errors import ConcordError, StoreError
from alignment.feedback import audit, credentials, lockout, people, runs, standing
from alignment.feedback.store import Store
from alignment.feedback.toxicity_scores import toxicity_scores
from alignment.records import Completion, Prompt
from tests.e2e.workspace import HOSTILE, PLAIN, PROMPTS, make_workspace, password
from ui import guard, sessions
from ui.api_labelling import prompt_format
from ui.app import create_app, serve
from ui.sessions import Sessions, workspace_secret

SECRET = b"a secret of at least thirty-two bytes"
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


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Made once: hashing passwords takes its time."""
    return make_workspace(tmp_path_factory.mktemp("template") / "workspace", PROMPTS, PLAIN)


@pytest.fixture(scope="module")
def shared_workspace(template, tmp_path_factory):
    return shutil.copytree(template, tmp_path_factory.mktemp("shared") / "workspace")


@pytest.fixture(scope="module")
def shared(shared_workspace):
    """An application to which tests add no ranking and no review."""
    return create_app(shared_workspace, secret=SECRET)


@pytest.fixture
def workspace(template, tmp_path):
    return shutil.copytree(template, tmp_path / "workspace")


@pytest.fixture
def app(workspace):
    return create_app(workspace, secret=SECRET)


@pytest.fixture
def store(workspace):
    store = Store(workspace / "feedback.db")
    yield store
    store.close()


def client_of(app, name: str | None, csrf: bool = True) -> TestClient:
    """A client with the session of an account."""
    client = TestClient(app, follow_redirects=False)
    if name is not None:
        signer = Sessions(SECRET)
        client.cookies.set(signer.cookie, signer.issue(name))
        if csrf:
            client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
    return client


def ranks_of(task: dict) -> dict[str, int]:
    return {c["id"]: rank for rank, c in enumerate(task["completions"], start=1)}


def counted(progress: dict) -> tuple[int, int]:
    return progress["done"], progress["left"]


# Every route and every role


def walked(router, prefix: str = "") -> set[tuple[str, str]]:
    """Method and path of every route, of the routers included in it as well."""
    found = set()
    for route in router.routes:
        if isinstance(route, Mount):
            found.add(("GET", prefix + route.path))
        elif isinstance(route, APIRoute | Route):
            found |= {(method, prefix + route.path) for method in route.methods - {"HEAD"}}
        else:  # a router included as a whole; its own routes carry its prefix already
            inner = getattr(route, "original_router", None)
            assert inner is not None, f"unknown kind of route: {route!r}"
            found |= walked(inner, prefix + getattr(router, "prefix", ""))
    return found


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


# Signing in


def sign_in(client: TestClient, name: str, secret: str, **more):
    page = client.get("/sign-in")
    token = page.text.split('name="token" value="', 1)[1].split('"', 1)[0]
    form = {"name": name, "password": secret, "token": token}
    return client.post("/sign-in", data=form, **more)


def test_sign_in_sets_a_cookie_that_scripts_and_other_sites_cannot_use(app):
    client = client_of(app, None)
    answer = sign_in(client, "labeler", password("labeler"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/board/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "max-age" in cookie
    assert client.get("/api/me").json()["name"] == "labeler"
    over_tls = TestClient(app, base_url="https://testserver", follow_redirects=False)
    assert (
        "secure" in sign_in(over_tls, "labeler", password("labeler")).headers["set-cookie"].lower()
    )


def test_a_wrong_password_and_an_unknown_name_look_alike(shared):
    client = client_of(shared, None)
    wrong = sign_in(client, "labeler", "not the password")
    unknown = sign_in(client, "nobody", "not the password")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("labeler", "") == unknown.text.replace("nobody", "")
    assert Sessions(SECRET).cookie not in client.cookies


def test_guessing_passwords_is_slowed_down(app):
    client = client_of(app, None)
    statuses = [sign_in(client, "labeler", f"guess number {i}").status_code for i in range(6)]
    assert statuses == [401] * 5 + [429]
    refused = sign_in(client, "labeler", password("labeler"))
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert sign_in(client, "other", password("other")).status_code == 303


def test_the_sign_in_form_needs_its_own_cookie(shared):
    client = client_of(shared, None)
    form = {"name": "labeler", "password": password("labeler"), "token": "made up"}
    assert client.post("/sign-in", data=form).status_code == 403
    assert client.get("/api/me").status_code == 401


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_sign_in_never_leads_to_another_site(app, target):
    client = client_of(app, None)
    answer = sign_in(client, "labeler", password("labeler"), params={"next": target})
    assert answer.headers["location"] == "/board/"


def test_sign_in_leads_back_to_the_page_asked_for(app):
    answer = sign_in(
        client_of(app, None), "engineer", password("engineer"), params={"next": "/runs/?run=ppo-1"}
    )
    assert answer.headers["location"] == "/runs/?run=ppo-1"


def test_sign_out_needs_the_token_and_ends_the_session(app):
    client = client_of(app, None)
    sign_in(client, "labeler", password("labeler"))
    csrf = client.get("/api/me").json()["csrf"]
    assert client.post("/sign-out", data={"token": "x"}).status_code == 403
    assert client.get("/api/me").status_code == 200
    assert client.post("/sign-out", data={"token": csrf}).status_code == 303
    assert client.get("/api/me").status_code == 401


def test_forged_expired_and_foreign_sessions_are_refused(shared, monkeypatch):
    signer = Sessions(SECRET)
    good = signer.issue("admin")
    stranger = Sessions(b"another secret of thirty-two bytes!!").issue("admin")
    for value in (good[:-2] + "xx", stranger, signer.issue("nobody"), "", "garbage"):
        client = TestClient(shared)
        client.cookies.set(signer.cookie, value)
        assert client.get("/api/me").status_code == 401
    monkeypatch.setattr(sessions, "SESSION_SECONDS", -1)
    assert signer.read(good) is None


def test_a_session_in_use_is_renewed_with_the_same_csrf_token(shared, monkeypatch):
    monkeypatch.setattr(sessions, "RENEW_SECONDS", -1)
    client = client_of(shared, "labeler")
    answer = client.get("/api/me")
    renewed = answer.headers["set-cookie"].split("=", 1)[1].split(";", 1)[0]
    fresh = Sessions(SECRET).read(renewed)
    assert fresh is not None and fresh.csrf == answer.json()["csrf"]


def test_a_restart_signs_nobody_out(workspace):
    first = create_app(workspace)
    client = TestClient(first, follow_redirects=False)
    sign_in(client, "labeler", password("labeler"))
    again = TestClient(create_app(workspace), cookies=client.cookies)
    assert again.get("/api/me").json()["name"] == "labeler"
    mode = stat.S_IMODE((workspace / ".secret").stat().st_mode)
    assert mode == 0o600


def test_a_broken_secret_is_refused(tmp_path):
    (tmp_path / ".secret").write_bytes(b"short")
    with pytest.raises(StoreError, match="Delete it"):
        workspace_secret(tmp_path)


@pytest.mark.parametrize("again", [False, True])
def test_failures_lock_an_account_and_a_restart_forgives_nothing(workspace, again):
    app = create_app(workspace, secret=SECRET)
    client = client_of(app, None)
    for i in range(5):
        sign_in(client, "labeler", f"guess number {i}")
    if again:
        client = client_of(create_app(workspace, secret=SECRET), None)
    assert sign_in(client, "Labeler", password("labeler")).status_code == 429


def test_failures_from_many_addresses_lock_the_account(store, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(lockout.time, "time", lambda: clock[0])
    for i in range(20):
        assert lockout.wait(store, "ann", f"10.0.0.{i}") == 0
        lockout.failed(store, "ann", f"10.0.0.{i}")
    assert lockout.wait(store, "ANN", "10.0.1.1") == pytest.approx(900)
    assert lockout.wait(store, "ben", "10.0.1.1") == 0
    clock[0] += 901
    assert lockout.wait(store, "ann", "10.0.1.1") == 0


def test_sign_out_everywhere_ends_every_session_and_spares_the_others(app):
    phone, desktop = client_of(app, None), client_of(app, None)
    for client in (phone, desktop):
        sign_in(client, "labeler", password("labeler"))
    csrf = phone.get("/api/me").json()["csrf"]
    assert phone.post("/api/sign-out-everywhere", headers={"X-CSRF-Token": csrf}).json() == {}
    assert phone.get("/api/me").status_code == desktop.get("/api/me").status_code == 401
    assert client_of(app, "other").get("/api/me").status_code == 200
    sign_in(phone, "labeler", password("labeler"))
    assert phone.get("/api/me").status_code == 200 and desktop.get("/api/me").status_code == 401


# The account


def account_form(client, path: str, **values):
    csrf = client.get("/api/me").json()["csrf"]
    return client.post(f"/account/{path}", data={"token": csrf, **values})


def test_a_password_is_changed_by_its_owner_and_other_sessions_end(app, store):
    here, there = client_of(app, None), client_of(app, None)
    for client in (here, there):
        sign_in(client, "labeler", password("labeler"))
    fresh = {"old": password("labeler"), "new": "quite another", "again": "quite another"}
    for changes, status, says in (
        ({"old": "a guess"}, 403, "present password is not right"),
        ({"again": "quite anotter"}, 422, "differ"),
        ({"new": "short", "again": "short"}, 422, "at least 8"),
        ({"new": fresh["old"], "again": fresh["old"]}, 422, "Choose another"),
    ):
        answer = account_form(here, "password", **{**fresh, **changes})
        assert (answer.status_code, says in answer.text) == (status, True)
    assert here.post("/account/password", data={"token": "stale", **fresh}).status_code == 403
    assert there.get("/api/me").status_code == 200, "nothing has changed so far"
    answer = account_form(here, "password", **fresh)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account?changed")
    assert here.get("/api/me").json()["name"] == "labeler", "whoever changed it stays"
    assert "signed out everywhere else" in here.get("/account?changed").text
    assert there.get("/api/me").status_code == 401
    assert sign_in(there, "labeler", password("labeler")).status_code == 401
    assert sign_in(there, "labeler", "quite another").status_code == 303
    assert audit.entries(store, action="change password")[0]["who"] == "labeler"


def test_guessing_the_present_password_is_slowed_down(app):
    client = client_of(app, "labeler")
    fields = {"old": "a guess", "new": "quite another", "again": "quite another"}
    statuses = [account_form(client, "password", **fields).status_code for _ in range(6)]
    assert statuses == [403] * 5 + [429]


def test_tokens_are_made_and_revoked_on_the_account_page_but_not_by_labelers(app, store):
    client = client_of(app, "reviewer")
    assert account_form(client, "tokens", name=" ", days="90").status_code == 422
    assert account_form(client, "tokens", name="script", days="9999").status_code == 422
    made = account_form(client, "tokens", name="my <b>script</b>", days="30")
    secret = made.text.split("<code>", 1)[1].split("</code>", 1)[0]
    assert bearer(app, secret).get("/api/me").json()["name"] == "reviewer"
    listed = client.get("/account").text
    assert "my &lt;b&gt;script" in listed and secret not in listed
    [row] = credentials.tokens(store, "reviewer")
    other = account_form(client_of(app, "engineer"), f"tokens/{row['token_id']}/revoke")
    assert other.status_code == 409
    assert account_form(client, f"tokens/{row['token_id']}/revoke").status_code == 303
    assert bearer(app, secret).get("/api/me").status_code == 401
    labeler = client_of(app, "labeler")
    assert "API tokens" not in labeler.get("/account").text
    assert account_form(labeler, "tokens", name="mine", days="1").status_code == 403
    assert account_form(labeler, "tokens/1/revoke").status_code == 403
    assert credentials.tokens(store, "labeler") == []


# Invitations and tokens


def accept(client, path, name, secret="a good password", again=None):
    page = client.get(path)
    token = page.text.split('name="token" value="', 1)[1].split('"', 1)[0]
    form = {"name": name, "password": secret, "again": again or secret, "token": token}
    return client.post(path, data=form)


def test_an_invitation_makes_one_account_once(app, store):
    manager = client_of(app, "engineer")
    made = manager.post("/api/invitations", json={"role": "labeler"}).json()
    assert made["path"] not in json.dumps(store.rows("SELECT * FROM invitations"))
    guest = client_of(app, None)
    for name, secret, again in (("eve", "a good password", "another"), ("eve", "short", "short")):
        assert accept(guest, made["path"], name, secret, again).status_code == 422
    assert accept(guest, made["path"], "labeler").status_code == 422, "the name is taken"
    done = accept(guest, made["path"], "eve")
    assert (done.status_code, done.headers["location"]) == (303, "/board/")
    assert guest.get("/api/me").json()["role"] == "labeler"
    assert client_of(app, None).get(made["path"]).status_code == 404
    assert people.account(store, "eve").role == "labeler"


def test_two_people_with_one_link_become_one_account(store):
    secret = credentials.invite(store, "labeler", "admin", 1)
    credentials.redeem(store, secret, "first", "a good password")
    with pytest.raises(StoreError, match="used"):
        credentials.redeem(store, secret, "second", "a good password")
    assert people.account(store, "second") is None
    late = credentials.invite(store, "labeler", "admin", -1)
    assert credentials.invitation(store, late) is None


def test_who_has_forgotten_the_password_gets_a_link_to_another(app, store):
    manager, forgetful = client_of(app, "engineer"), client_of(app, "labeler")
    first, made = (
        manager.post("/api/invitations", json={"account": "labeler"}).json() for _ in range(2)
    )
    assert made["role"] == "labeler"
    guest = client_of(app, None)
    assert guest.get(first["path"]).status_code == 404, "a newer link ends the older one"
    page = guest.get(made["path"])
    assert "Choose a new password for labeler" in page.text and 'type="text"' not in page.text
    assert accept(guest, made["path"], "labeler", "short").status_code == 422
    assert forgetful.get("/api/me").status_code == 200, "nothing has changed yet"
    done = accept(guest, made["path"], "somebody else", "another password")
    assert (done.status_code, done.headers["location"]) == (303, "/board/")
    assert guest.get("/api/me").json()["name"] == "labeler"
    assert forgetful.get("/api/me").status_code == 401, "the old sessions have ended"
    assert people.sign_in(store, "labeler", "another password")
    assert people.account(store, "somebody else") is None
    assert client_of(app, None).get(made["path"]).status_code == 404
    changed, linked = audit.entries(store, 2)
    assert (changed["who"], changed["action"]) == ("labeler", "change password")
    assert (linked["who"], linked["action"], linked["subject"]) == (
        "engineer",
        "password link",
        "labeler",
    )


def test_a_link_to_a_new_password_is_for_accounts_that_the_caller_may_invite(app):
    engineer, admin = client_of(app, "engineer"), client_of(app, "admin")
    refused = engineer.post("/api/invitations", json={"account": "admin", "role": "labeler"})
    assert refused.status_code == 403 and "Only an admin" in refused.text
    assert admin.post("/api/invitations", json={"account": "engineer"}).status_code == 200
    unknown = admin.post("/api/invitations", json={"account": "nobody"})
    assert unknown.status_code == 409 and "no account 'nobody'" in unknown.text


def test_only_an_admin_invites_managers(app):
    engineer, admin = client_of(app, "engineer"), client_of(app, "admin")
    for role in ("engineer", "admin"):
        assert engineer.post("/api/invitations", json={"role": role}).status_code == 403
        assert admin.post("/api/invitations", json={"role": role}).status_code == 200


def bearer(app, token):
    return TestClient(app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False)


def test_a_token_acts_for_its_account_under_the_same_rules(app, store):
    client = client_of(app, "reviewer")
    made = client.post("/api/tokens", json={"name": "my script"}).json()
    assert made["token"] not in json.dumps(store.rows("SELECT * FROM api_tokens"))
    program = bearer(app, made["token"])
    me = program.get("/api/me").json()
    assert (me["name"], me["csrf"]) == ("reviewer", None)
    task = program.post("/api/tasks/next").json()["task"]
    answer = {"token": task["token"], "ranks": ranks_of(task)}
    assert program.post("/api/rankings", json=answer).status_code == 200, "no CSRF token needed"
    assert program.get("/api/audit").status_code == 403
    assert program.get("/board/").status_code == 401, "tokens are for the API only"
    assert program.post("/api/tokens", json={"name": "child"}).status_code == 403
    (row,) = client.get("/api/tokens").json()
    assert row["name"] == "my script" and row["last_used"]
    assert client_of(app, "engineer").delete(f"/api/tokens/{row['token_id']}").status_code == 409
    assert client.delete(f"/api/tokens/{row['token_id']}").json() == {}
    assert program.get("/api/me").status_code == 401


def test_forged_and_expired_tokens_are_refused(app, store):
    _, late = credentials.create_token(store, "admin", "late", 1e-9)
    time.sleep(0.01)
    for token in (late, "concord_nothing", "", "Bearer", "x" * 5000):
        assert bearer(app, token).get("/api/me").status_code == 401
    signed_in = client_of(app, "admin")
    signed_in.headers["Authorization"] = "Bearer concord_nothing"
    assert signed_in.get("/api/me").status_code == 401, "a bad token is not saved by a cookie"


def test_the_audit_log_tells_who_did_what_and_cannot_be_changed(app, store):
    client = client_of(app, None)
    sign_in(client, "labeler", "wrong password")
    sign_in(client, "labeler", password("labeler"))
    client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
    task = client.post("/api/tasks/next").json()["task"]
    client.post("/api/rankings", json={"token": task["token"], "ranks": ranks_of(task)})
    manager = client_of(app, "admin")
    manager.post("/api/labelers/labeler/pause", json={"reason": "Lunch."})
    rows = manager.get("/api/audit").json()
    assert [(row["who"], row["action"]) for row in reversed(rows)] == [
        ("labeler", "failed sign-in"),
        ("labeler", "sign in"),
        ("labeler", "submit"),
        ("admin", "pause"),
    ]
    assert rows[0]["detail"] == {"reason": "Lunch."}
    assert [r["action"] for r in manager.get("/api/audit?action=submit").json()] == ["submit"]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.db.execute("UPDATE audit SET who = 'nobody'")


def test_decisions_need_a_reason_and_a_known_labeler(app):
    manager = client_of(app, "engineer")
    assert manager.post("/api/labelers/labeler/pause", json={"reason": " "}).status_code == 422
    assert manager.post("/api/labelers/labeler/praise", json={"reason": "x"}).status_code == 422
    assert manager.post("/api/labelers/nobody/pause", json={"reason": "x"}).status_code == 409
    assert manager.post("/api/labelers/labeler/pause", json={"reason": "x"}).status_code == 200
    assert manager.post("/api/labelers/labeler/pause", json={"reason": "x"}).status_code == 409


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


# Ranking


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


def test_openapi_describes_the_labelling_api(shared):
    paths = client_of(shared, "labeler").get("/api/openapi.json").json()["paths"]
    assert set(paths) == {path for _, path in ROUTES if path.startswith("/api/")} - {
        "/api/openapi.json"
    }


# Reports and reviews


def test_reports_are_shut_in_a_sandbox(shared):
    client = client_of(shared, "reviewer")
    answer = client.get("/reports/evaluate-1")
    assert answer.status_code == 200 and "Toxicity fell" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;") and "allow-scripts" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("run_id", ["ppo-1", "nothing", "..%2f..%2fconcord.yaml", "%2e%2e"])
def test_only_reports_of_evaluations_are_served(shared, run_id):
    assert client_of(shared, "reviewer").get(f"/reports/{run_id}").status_code == 404


def handler(app, page: str, name: str):
    """A Gradio handler of a page, by its name."""
    mount = next(r for r in app.routes if isinstance(r, Mount) and r.path == page)
    functions = mount.app.get_blocks().fns.values()
    return next(f.fn for f in functions if f.fn.__name__ == name)


def gradio_request(name: str, **query: str) -> gr.Request:
    signer = Sessions(SECRET)
    cookies = {signer.cookie: signer.issue(name)}
    return gr.Request(request=SimpleNamespace(cookies=cookies, query_params=query, headers={}))


def test_a_verdict_is_stored_under_the_name_of_the_session(app, store):
    judge = handler(app, "/review", "judge")
    judge("evaluate-1", "accept", "  Well done.\n", gradio_request("reviewer"))
    (review,) = runs.reviews(store, "evaluate-1")
    assert (review.reviewer, review.verdict, review.comment) == ("reviewer", "accept", "Well done.")


@pytest.mark.parametrize(
    ("run_id", "verdict", "comment"),
    [
        ("evaluate-1", None, ""),
        ("evaluate-1", "splendid", ""),
        ("evaluate-1", "accept", "x" * 4001),
        ("ppo-1", "accept", ""),
        ("nothing", "accept", ""),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused(
    shared, shared_workspace, run_id, verdict, comment
):
    with pytest.raises(gr.Error):
        handler(shared, "/review", "judge")(run_id, verdict, comment, gradio_request("reviewer"))
    assert runs.reviews(Store(shared_workspace / "feedback.db"), "evaluate-1") == []


# Serving


def test_a_port_in_use_is_said_before_anything_starts(workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConcordError, match=f"Port {port} is already in use"):
            serve(workspace, port=port)


def test_a_folder_without_a_store_is_no_workspace(tmp_path):
    with pytest.raises(StoreError, match="concord init"):
        create_app(tmp_path)


# Drafts, own answers, practice (the rules themselves: tests/test_labelling.py)


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


# Data in and out, and people


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
