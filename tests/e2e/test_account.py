"""The account page in the browser: from every page, a password changed, a token made and revoked, signed out."""

import pytest
from playwright.sync_api import expect

from alignment.feedback import credentials, people
from tests.e2e.test_accessibility import serious
from tests.e2e.workspace import password

pytestmark = pytest.mark.browser
PHONE = {"width": 390, "height": 844}


def account_page(page, name):
    page.get_by_role("link", name=f"Account of {name}").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def change_password(page, old, new):
    page.get_by_label("Present password").fill(old)
    page.get_by_label("New password", exact=True).fill(new)
    page.get_by_label("New password again").fill(new)
    page.get_by_role("button", name="Change password").click()


def test_a_labeler_changes_the_password_from_the_board_and_nothing_else(server, open_page):
    old = server.account("changing")
    elsewhere = open_page("changing", old, viewport=PHONE)
    page = open_page("changing", old)
    expect(page.locator("#board .b")).to_be_attached()
    account_page(page, "changing")
    expect(page.get_by_text("API tokens")).to_have_count(0)
    for field, text in (
        ("Present password", "not it at all"),
        ("New password", "fresh and long"),
        ("New password again", "fresh and long"),
    ):
        page.get_by_label(field, exact=True).fill(text)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("alert")).to_contain_text("present password is not right")
    for field, text in (
        ("Present password", old),
        ("New password", "fresh and long"),
        ("New password again", "fresh and long"),
    ):
        page.get_by_label(field, exact=True).fill(text)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("status")).to_contain_text("signed out everywhere else")
    assert people.sign_in(server.store, "changing", old) is None
    assert people.sign_in(server.store, "changing", "fresh and long")
    elsewhere.goto(f"{server.url}/board/")
    expect(elsewhere.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_role("link", name="Back to work").click()
    page.wait_for_url("**/board/")
    account_page(page, "changing")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_reviewer_makes_and_revokes_a_token(server, open_page):
    page = open_page("reviewer", password("reviewer"))
    account_page(page, "reviewer")
    page.get_by_label("What it is for").fill("nightly script")
    page.get_by_role("button", name="Make a token").click()
    secret = page.locator("code").text_content()
    assert credentials.token_account(server.store, secret).account_id == "reviewer"
    page.get_by_role("button", name="Revoke nightly script").click()
    expect(page.get_by_text("nightly script")).to_have_count(0)
    assert credentials.token_account(server.store, secret) is None


PAGES = {
    "/runs/": "engineer",
    "/consensus/": "engineer",
    "/people/": "engineer",
    "/review/": "reviewer",
    "/blind/": "reviewer",
    "/board/": "labeler",
}


@pytest.mark.parametrize("path", PAGES)
def test_account_and_sign_out_are_on_every_page(server, open_page, path):
    page = open_page(PAGES[path], password(PAGES[path]), viewport=PHONE)
    page.goto(server.url + path)
    for control in (
        page.get_by_role("link", name="Account of"),
        page.get_by_role("button", name="Sign out"),
    ):
        expect(control).to_be_visible()
        box = control.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_account_page(open_page, scheme):
    page = open_page("engineer", password("engineer"), viewport=PHONE, color_scheme=scheme)
    account_page(page, "engineer")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
