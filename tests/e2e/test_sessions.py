"""The board while sessions end, and while somebody else signs in in the same browser."""

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import press, shown_ids, state, submitted, toast

pytestmark = pytest.mark.browser
OWN = {"viewport": {"width": 1280, "height": 1000}}


def signed_in(page, name: str, password: str) -> None:
    page.fill("#name", name)
    page.fill("#password", password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_what_one_person_ranks_never_becomes_anothers(server, board):
    page = board(**OWN)
    ids = shown_ids(page)
    press(page, "1", "2")
    expect(page.locator('[data-part="saved"]')).to_have_text("Draft saved")
    other, password = "another-labeler", server.account("another-labeler")
    tab = page.context.new_page()
    tab.goto(page.url)
    tab.get_by_role("button", name="Sign out").click()
    signed_in(tab, other, password)
    for key in ("3", "4"):
        press(page, key)
        expect(page.locator(".b-notice")).to_contain_text(f"{other} is signed in")
    assert shown_ids(page) == ids, "the page shows another person's task"
    press(page, "Enter")
    expect(page.locator(".b-notice")).to_contain_text(f"{other} is signed in")
    assert server.rankings(other) == server.rankings(page.labeler) == []
    tab.goto(f"{server.url}/")
    tab.get_by_role("button", name="Sign out").click()
    signed_in(tab, page.labeler, page.password)
    expect(toast(tab)).to_have_text("The answer kept on this device is saved.")
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))


def test_an_answer_that_was_refused_and_then_changed_is_not_sent_as_it_was(server, board):
    page = board(**OWN)
    a, b, c, d = shown_ids(page)
    press(page, "1", "2", "3", "4")
    page.context.clear_cookies()
    press(page, "Enter")
    expect(page.locator(".b-notice")).to_contain_text("Your ranking is kept on this device")
    for completion, place in zip((d, c, b, a), "1234", strict=True):
        page.locator(f'.b-card[data-id="{completion}"]').focus()
        press(page, place)
    page.locator(f'.b-card[data-id="{a}"]').focus()
    press(page, "w")
    page.keyboard.type("the other way round")
    page.get_by_role("link", name="Sign in").click()
    signed_in(page, page.labeler, page.password)
    expect(state(page, d)).to_have_text("1st")
    expect(page.locator('[data-part="rationale"]')).to_have_value("the other way round")
    assert server.rankings(page.labeler) == [], "the older order was sent by itself"
    page.locator(f'.b-card[data-id="{a}"]').focus()
    submitted(page)
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == {d: 1, c: 2, b: 3, a: 4}
    assert server.rows(page.labeler)[0]["rationale"] == "the other way round"


def test_an_answer_kept_while_paused_goes_off_when_work_goes_on(server, board):
    from alignment.feedback import standing

    page = board(**OWN)
    press(page, "1", "2", "3", "4")
    standing.decide(server.store, page.labeler, "pause", "You are too fast.", "admin")
    press(page, "Enter")
    expect(page.locator(".b-notice")).to_be_visible()
    page.reload()
    expect(page.locator(".b-done")).to_contain_text("Your work is paused")
    expect(page.locator(".b-notice")).to_contain_text("kept on this device")
    standing.decide(server.store, page.labeler, "resume", "Go on.", "admin")
    page.get_by_role("button", name="Look for new tasks").click()
    expect(toast(page)).to_have_text("The answer kept on this device is saved.")
    expect(page.locator(".b-notice")).to_be_hidden()
    expect(page.get_by_text("You are too fast.")).to_be_hidden()
    assert len(server.rankings(page.labeler)) == 1
