"""The account page, invitations, links to a new password, API tokens, decisions, the audit log."""

import json
import sqlite3
import time

import pytest
from fastapi.testclient import TestClient

from alignment.errors import StoreError
from alignment.feedback import audit, credentials, people
from tests.e2e.workspace import password
from tests.ui.client import client_of, ranks_of, sign_in


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


def test_a_link_to_a_new_password_ends_with_another_password(app, store):
    link = credentials.invite_back(store, "labeler", "admin", 1)
    people.change_password(store, "labeler", password("labeler"), "remembered after all")
    assert credentials.invitation(store, link) is None
    link = credentials.invite_back(store, "labeler", "admin", 1)
    people.sign_out_everywhere(store, "labeler")
    assert credentials.invitation(store, link) is None


def test_a_link_to_a_new_password_is_for_accounts_that_the_caller_may_invite(app, store):
    engineer, admin = client_of(app, "engineer"), client_of(app, "admin")
    refused = engineer.post("/api/invitations", json={"account": "admin", "role": "labeler"})
    assert refused.status_code == 403 and "Only an admin" in refused.text
    assert admin.post("/api/invitations", json={"account": "engineer"}).status_code == 200
    with pytest.raises(StoreError, match="imported labelers have none"):
        credentials.invite_as(store, people.account(store, "engineer"), "", "nobody", 1)
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
