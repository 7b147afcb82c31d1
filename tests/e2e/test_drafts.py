"""Drafts, lost connections, restarts, second tabs and devices: nothing is lost and nothing contradicts itself."""

import json

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import press, shown_ids, state, submitted, toast

pytestmark = pytest.mark.browser

SAVED = "Draft saved"


def draft_state(page):
    return page.locator('[data-part="saved"]')


def stored_draft(server, page) -> dict:
    """The one draft of the page's labeler."""
    (row,) = server.store.rows("SELECT draft FROM drafts WHERE labeler_id = ?", [page.labeler])
    return json.loads(row["draft"])


def second_tab(page):
    tab = page.context.new_page()
    tab.goto(page.url)
    expect(tab.locator(".b-card")).to_have_count(4)
    return tab


def test_a_draft_goes_on_in_another_browser(server, board, open_page):
    page = board(viewport={"width": 1280, "height": 1000})
    a, b, c, d = shown_ids(page)
    press(page, "3", "1", "n", "n", "ArrowRight", "f", "1", "Enter", "w")
    page.keyboard.type("so far")
    expect(draft_state(page)).to_have_text(SAVED)
    assert stored_draft(server, page)["ranks"] == {a: 3, b: 1}
    other = open_page(page.labeler, page.password, viewport={"width": 390, "height": 844})
    expect(state(other, a)).to_have_text("3rd")
    expect(state(other, b)).to_have_text("1st")
    expect(other.locator(f'.b-card[data-id="{d}"] .b-flagged')).to_have_text("Toxic")
    expect(other.locator('[data-part="rationale"]')).to_have_value("so far")
    other.locator(f'.b-card[data-id="{c}"]').focus()
    press(other, "2", "4")
    submitted(other)
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == {b: 1, c: 2, a: 3, d: 4}
    (row,) = server.rows(page.labeler)
    assert (row["rationale"], json.loads(row["flags"])) == ("so far", {d: ["toxic"]})


def test_a_change_on_two_devices_is_put_to_the_labeler(server, board, open_page):
    page = board(viewport={"width": 1280, "height": 1000})
    a, b, *_ = shown_ids(page)
    other = open_page(page.labeler, page.password, viewport={"width": 1280, "height": 1000})
    expect(other.locator(".b-card")).to_have_count(4)
    press(page, "1")
    expect(draft_state(page)).to_have_text(SAVED)
    press(other, "4")
    conflict = other.get_by_role("dialog", name="This task was changed on another device")
    expect(conflict).to_contain_text("Order: A")
    press(other, "Escape")
    expect(conflict).to_be_visible()  # it wants an answer
    conflict.get_by_role("button", name="Take theirs").click()
    expect(state(other, a)).to_have_text("1st")
    # The other way round: both change again, and this one's stands.
    press(page, "2")
    expect(draft_state(page)).to_have_text(SAVED)
    other.locator(f'.b-card[data-id="{b}"]').focus()
    press(other, "3")
    conflict.get_by_role("button", name="Keep mine").click()
    expect(draft_state(other)).to_have_text(SAVED)
    assert stored_draft(server, page)["ranks"] == {a: 1, b: 3}
    # The first page builds on what is old now; Submit does not push it through in silence.
    for completion, number in zip(shown_ids(page)[2:], "34", strict=True):
        page.locator(f'.b-card[data-id="{completion}"]').focus()
        press(page, number)
    press(page, "Enter")
    expect(page.get_by_role("dialog", name="This task was changed")).to_be_visible()
    assert server.rankings(page.labeler) == []


def test_two_tabs_show_the_same(server, board):
    page = board(viewport={"width": 1280, "height": 1000})
    a, *_ = ids = shown_ids(page)
    tab = second_tab(page)
    press(page, "1")
    expect(state(tab, a)).to_have_text("1st")
    press(page, "2", "3", "4")
    submitted(page)
    expect(tab.locator(".b-notice")).to_contain_text("has been answered")
    assert shown_ids(tab) != ids
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))


def test_a_second_answer_to_the_same_task_is_refused_aloud(server, board):
    """A tab that heard nothing of the other: its answer differs, and it is told that the first stands."""
    page = board(viewport={"width": 1280, "height": 1000})
    ids = shown_ids(page)
    # Its own storage and channel, the same session: as a browser without either.
    tab = page.context.new_page()
    tab.add_init_script("delete window.BroadcastChannel")
    tab.goto(page.url)
    expect(tab.locator(".b-card")).to_have_count(4)
    press(page, "1", "2", "3", "4")
    submitted(page)
    press(tab, "4", "3", "2", "1", "Enter")
    expect(tab.locator(".b-notice")).to_contain_text("already answered")
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))


def test_an_answer_lost_on_the_way_is_stored_once(server, board):
    page = board()
    ids = shown_ids(page)
    tries = []

    def unreliable(route) -> None:
        tries.append(route.request.post_data_json)
        if len(tries) == 1:  # the request never arrives
            route.abort()
        elif len(tries) == 2:  # it is stored, and the reply is lost
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/api/rankings", unreliable)
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.locator(".b-notice")).to_contain_text("Saved on this device, sending again")
    assert server.rankings(page.labeler) == []
    page.get_by_role("button", name="Try now").click()
    expect(toast(page)).to_have_text("Saved.")
    expect(page.locator(".b-notice")).to_be_hidden()
    assert len(tries) == 3 and tries[0] == tries[1] == tries[2]
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))


def test_an_unsent_answer_outlives_a_reload(server, board):
    page = board()
    ids = shown_ids(page)
    page.route("**/api/rankings", lambda route: route.abort())
    press(page, "2", "1", "3", "4", "Enter")
    expect(page.locator(".b-notice")).to_contain_text("Saved on this device")
    page.unroute("**/api/rankings")
    page.reload()
    expect(page.locator(".b")).to_have_attribute("data-state", "work")
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (2, 1, 3, 4), strict=True))
    assert shown_ids(page) != ids


def test_a_draft_is_kept_on_the_device_while_the_server_is_away(server, board):
    page = board()
    a, b, *_ = shown_ids(page)
    page.route("**/api/drafts", lambda route: route.abort())
    press(page, "3", "1")
    expect(draft_state(page)).to_have_text("Saved on this device, sending again")
    page.reload()
    expect(state(page, a)).to_have_text("3rd")
    expect(state(page, b)).to_have_text("1st")
    page.unroute("**/api/drafts")
    expect(draft_state(page)).to_have_text(SAVED)
    assert stored_draft(server, page)["ranks"] == {a: 3, b: 1}


def test_the_server_is_killed_between_get_and_submit(server, board):
    page = board()
    ids = shown_ids(page)
    press(page, "1", "2")
    server.kill()
    press(page, "3", "4", "Enter")
    expect(page.locator(".b-notice")).to_contain_text("Saved on this device, sending again")
    server.start()
    expect(toast(page)).to_have_text("Saved.", timeout=30_000)
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))
