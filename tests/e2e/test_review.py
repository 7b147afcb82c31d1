"""Reviewers in the browser: a blind round, the texts behind their blur, downloads."""

import pytest
from playwright.sync_api import expect

from alignment.feedback import blind, runs
from tests.e2e.workspace import add_evaluation, password

pytestmark = pytest.mark.browser
RUN = "evaluate-8"


@pytest.fixture(scope="module")
def evaluation(server):
    """A finished evaluation; it is the newest, so the Review page opens with it."""
    add_evaluation(server.store.path.parent, server.store, run_id=RUN)
    return RUN


def test_a_blind_round_by_keys_and_mouse(server, open_page, evaluation):
    page = open_page("reviewer", password("reviewer"))
    page.goto(f"{server.url}/review/?run={evaluation}")
    page.get_by_role("button", name="Open a blind round").click()
    expect(page.get_by_text("pairs wait on the page Compare")).to_be_visible()
    expect(page.get_by_text("Nobody has answered yet")).to_be_visible()
    page.goto(f"{server.url}/blind/")
    expect(page.locator(".p-progress")).to_have_text("1 of 12")
    text = page.locator('[data-part="left"]')
    assert "blur" in text.evaluate("e => getComputedStyle(e).filter"), "blurred until asked for"
    page.get_by_label("Show texts without blur").check()
    expect(text).to_have_css("filter", "none")
    assert "<b>" in text.text_content(), "text is shown as text"
    expect(text.locator(".b-control")).to_have_text("U+202E")  # it turns nothing round
    page.keyboard.press("ArrowDown")  # it scrolls, and judges nothing
    page.keyboard.press("1")
    expect(page.locator(".p-progress")).to_have_text("2 of 12")
    tab = page.context.new_page()
    tab.goto(page.url)
    expect(tab.locator(".p-progress")).to_have_text("2 of 12")
    page.get_by_role("button", name="No difference").click()
    expect(page.locator(".p-progress")).to_have_text("3 of 12")
    tab.keyboard.press("1")
    expect(tab.get_by_text("You have judged this pair already")).to_be_visible()
    expect(tab.locator(".p-progress")).to_have_text("3 of 12")
    tab.close()
    page.reload()
    expect(page.locator(".p-progress")).to_have_text("3 of 12")
    for number in range(3, 13):
        expect(page.locator(".p-progress")).to_have_text(f"{number} of 12")
        page.keyboard.press("3")
    expect(page.get_by_text("All pairs compared")).to_be_visible()
    (opened,) = blind.rounds(server.store, evaluation)
    found = blind.result(server.store, opened)
    assert (found.judged, found.judges, found.ties.count) == (12, ("reviewer",), 1)
    page.goto(f"{server.url}/review/?run={evaluation}")
    expect(page.get_by_text("aligned was preferred to base")).to_be_visible()


def test_texts_are_filtered_and_shown_when_asked_for(server, open_page, evaluation):
    page = open_page("reviewer", password("reviewer"))
    page.goto(f"{server.url}/review/?run={evaluation}")
    page.get_by_role("tab", name="Texts").click()
    expect(page.get_by_text("12 prompts, the largest rise")).to_be_visible()
    veil = page.locator(".c-texts .veil").first
    text = veil.locator(".text")
    assert "blur" in text.evaluate("e => getComputedStyle(e).filter")
    veil.click()
    expect(text).to_have_css("filter", "none")
    page.get_by_label("Words, then Enter").fill("Prompt 11")
    page.get_by_label("Words, then Enter").press("Enter")
    expect(page.get_by_text("1 prompt, the largest rise")).to_be_visible()


def test_the_report_fits_a_telephone_in_dark(server, open_page, evaluation):
    page = open_page(
        "engineer",  # who sees the most pages, so the longest navigation bar
        password("engineer"),
        viewport={"width": 390, "height": 844},
        color_scheme="dark",
    )
    for path in (f"/reports/{evaluation}", f"/review/?run={evaluation}", "/blind/"):
        page.goto(server.url + path)
        page.wait_for_timeout(800)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path


def test_a_verdict_is_tied_to_the_figures(server, open_page, evaluation):
    page = open_page("reviewer", password("reviewer"))
    page.goto(f"{server.url}/review/?run={evaluation}")
    page.get_by_label("Needs work").check()
    page.get_by_role("button", name="Store verdict").click()
    expect(page.locator(".review .tag").filter(has_text="needs work")).to_be_visible()
    (review,) = runs.reviews(server.store, evaluation)
    assert review.verdict == "needs work" and len(review.figures) == 64
    page.goto(f"{server.url}/reports/{evaluation}")
    expect(page.locator("#people")).to_be_visible()


def test_a_verdict_in_the_making_stays_with_its_evaluation(server, open_page, evaluation):
    page = open_page("reviewer", password("reviewer"))
    page.goto(f"{server.url}/review/?run={evaluation}")
    page.get_by_role("button", name="Store verdict").click()
    expect(page.get_by_text("Choose a verdict first.")).to_be_visible()
    page.get_by_label("Reject").check()
    page.get_by_label("Comment").fill("It got worse.")
    page.get_by_label("Evaluation").click()
    page.get_by_role("option", name="evaluate-1 ").click()
    expect(page.get_by_label("Comment")).to_have_value("")
    expect(page.get_by_label("Reject")).not_to_be_checked()
    assert page.url.endswith("?run=evaluate-1")
