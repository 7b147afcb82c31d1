"""The other pages in the browser: what a reviewer and an engineer see and do, and that labelers reach none of it."""

import re
import time

import pytest
from playwright.sync_api import expect

from alignment.feedback import runs
from tests.e2e.workspace import HOSTILE, password

pytestmark = pytest.mark.browser


def test_a_labeler_reaches_board_and_blind_rounds_only(server, board):
    page = board()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.locator(".c-nav nav a").all_text_contents() == ["Rank", "Compare"]
    for path in ("/runs/", "/review/", "/reports/evaluate-1"):
        assert page.goto(server.url + path).status == 403
        expect(page.get_by_text("has no access to this page")).to_be_visible()
    page.goto(server.url)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_reviewer_sees_the_report_and_stores_a_verdict(server, open_page):
    page = open_page("reviewer", password("reviewer"))
    page.goto(f"{server.url}/review/?run=evaluate-1")  # other tests leave newer ones
    expect(page.frame_locator("iframe").locator("#finding")).to_have_text("Toxicity fell by half")
    assert page.title() != "hacked", "a script in the report has run"
    page.get_by_label("Needs work").check()
    comment = "Two prompts got worse: <b>${1+1}</b>"
    page.get_by_label("Comment").fill(comment)
    page.get_by_role("button", name="Store verdict").click()
    expect(page.locator(".review p")).to_have_text(comment)
    (review,) = runs.reviews(server.store, "evaluate-1")
    assert (review.reviewer, review.verdict, review.comment) == ("reviewer", "needs work", comment)


def test_an_engineer_watches_runs(server, open_page):
    page = open_page("engineer", password("engineer"))
    page.locator('tr[data-run="reward-1"] a').click()
    expect(page.locator(".r-message")).to_have_text(f"It failed: {HOSTILE[0]} {HOSTILE[1]}")
    assert page.evaluate("window.hacked") is None
    page.locator('tr[data-run="ppo-1"] a').click()
    expect(page.locator(".r-curve canvas")).to_have_count(2)
    assert page.url.endswith("?run=ppo-1")
    folder = server.store.path.parent / "runs" / "ppo-1"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('ard": 1}\n{"iteration": 6, "entropy": 1.5}\n')
    started = time.monotonic()
    expect(page.locator(".r-curve canvas")).to_have_count(3)
    assert time.monotonic() - started < 10
    expect(page.locator(".r-warnings")).to_be_hidden()
    (folder / "warnings.jsonl").write_text(
        '{"iteration": 6, "warning": "reward up, fluency <i>down</i>"}\n'
    )
    expect(page.locator(".r-warnings p")).to_have_text("reward up, fluency <i>down</i>")


def test_every_page_of_an_engineer_fits_a_phone_and_shows_where_one_is(server, open_page):
    page = open_page("engineer", password("engineer"), viewport={"width": 390, "height": 844})
    for name in ("runs", "consensus", "review", "people", "blind"):
        page.goto(f"{server.url}/{name}/")
        here = page.locator(".c-nav nav a[aria-current]")
        expect(here).to_be_in_viewport(ratio=0.9)
        expect(page.locator("h1, h2, .empty").first).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"/{name} is {wide} pixels wider than the screen"


def test_an_engineer_sees_and_decides_about_people(server, open_page):
    page = open_page("engineer", password("engineer"))
    page.goto(f"{server.url}/people/")
    expect(page.get_by_role("heading", name="People")).to_be_visible()
    expect(page.get_by_role("columnheader", name="Position bias")).to_be_visible()
    page.get_by_role("button", name="Make a link").click()
    expect(page.get_by_label("Invitation link")).to_have_value(re.compile("/invite/"))
    page.get_by_role("button", name="Record decision").click()
    expect(page.get_by_text("Choose a labeler and a decision first.")).to_be_visible()
    page.get_by_label("Invite a").click()
    expect(page.get_by_role("option")).to_contain_text(["labeler", "reviewer"])


def test_a_page_that_is_not_there_says_so(server, open_page):
    page = open_page("engineer", password("engineer"))
    for path in ("/reports/nothing", "/exports/nothing", "/account/tokens", "/nonsense"):
        assert page.goto(server.url + path).status in (404, 405, 422)
        expect(page.locator("main, body").first).not_to_contain_text("detail")
        expect(page.get_by_role("link", name=re.compile("home|Concord")).first).to_be_visible()


def test_the_list_of_runs_leaves_alone_what_one_is_at(server, open_page):
    page = open_page("engineer", password("engineer"))
    page.locator('tr[data-run="ppo-1"] a').click()
    expect(page).to_have_url(re.compile("run=ppo-1"))
    tick = page.locator('[data-tick="reward-1"]')
    assert tick.evaluate("e => getComputedStyle(e).appearance") == "auto", "the tick is not seen"
    tick.check()
    kept = page.locator('tr[data-run="reward-1"] a').element_handle()
    shown = page.locator(".r-message").element_handle()
    runs.keep_metrics(server.store, "evaluate-1", {"toxicity_after": 0.125})
    expect(page.locator('tr[data-run="evaluate-1"]')).to_contain_text("0.125")
    expect(tick).to_be_focused()
    expect(tick).to_be_checked()
    assert kept.evaluate("e => e.isConnected") and shown.evaluate("e => e.isConnected")
    page.locator('tr[data-run="reward-1"] a').click()
    expect(page.get_by_role("heading", name="reward-1")).to_be_visible()
    page.get_by_role("tab", name="Log").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.get_by_label("Note", exact=True).fill("half a thought")
    page.go_back()
    expect(page.get_by_role("heading", name="ppo-1")).to_be_visible()
    expect(page.get_by_label("Note", exact=True)).to_have_value("")
    page.go_forward()
    expect(page.get_by_label("Note", exact=True)).to_have_value("half a thought")


def test_a_run_that_draws_no_curves_shows_what_came_out(server, open_page):
    page = open_page("engineer", password("engineer"))
    page.locator('tr[data-run="evaluate-1"] a').click()
    expect(page.get_by_role("tab", name="Figures and configuration")).to_have_attribute(
        "aria-selected", "true"
    )
    expect(page.get_by_role("tab", name="Curves")).to_be_hidden()
    page.locator('tr[data-run="ppo-1"] a').click()
    expect(page.get_by_role("tab", name="Curves")).to_have_attribute("aria-selected", "true")
