"""Signing in, sessions, and the brake on guessing."""

import stat

import pytest
from fastapi.testclient import TestClient

from alignment.errors import StoreError
from alignment.feedback import lockout
from tests.e2e.workspace import password
from tests.ui.client import SECRET, client_of, sign_in
from ui import sessions
from ui.app import create_app
from ui.sessions import Sessions, workspace_secret


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
