"""Where each role lands after signing in, and what it is told to do next."""

import pytest
from playwright.sync_api import expect

from alignment.feedback import blind, runs
from alignment.feedback.blind import Pair
from alignment.feedback.runs import Review, Run
from tests.e2e.conftest import press
from tests.e2e.workspace import password

pytestmark = pytest.mark.browser
PHONE = {"width": 390, "height": 844}


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


@pytest.fixture(scope="module")
def round_two(server):
    """Two rounds: the first was evaluated and judged, the second awaits its verdict."""
    store = server.store

    def add(run_id: str, **metrics) -> None:
        folder = str(store.path.parent / "runs" / run_id)
        stage = run_id.split("-")[0]
        runs.save_run(store, Run(run_id, stage, {}, "finished", metrics=metrics, folder=folder))

    for number, (before, after) in enumerate(((0.6, 0.3), (0.31, 0.1)), start=71):
        add(f"sample-{number}", completions=8)
        add(
            f"consensus-{number}",
            krippendorff_alpha=0.5,
            krippendorff_low=0.4,
            krippendorff_high=0.6,
        )
        add(f"reward-{number}", accuracy=0.8)
        add(f"ppo-{number}", kl=1.2)
        metrics = {"toxicity_before": figure(before), "toxicity_after": figure(after)}
        add(f"evaluate-{number}", **metrics)
    runs.add_review(store, Review("evaluate-71", "reviewer", "accept", ""))
    opened = blind.open_round(
        store, "evaluate-72", "base", "policy", [Pair("x", "?", "a", "b")], "engineer"
    )
    yield "evaluate-72"
    blind.answer(
        store, "reviewer", opened.round_id, "x", "tie"
    )  # other tests open rounds of their own


def test_an_engineer_lands_on_the_round(server, open_page, round_two):
    page = open_page("engineer", password("engineer"))
    strip = page.locator(".r-round")
    expect(strip.get_by_role("heading", name="Round 2")).to_be_visible()
    assert page.url == f"{server.url}/runs/"
    expect(strip.locator(".r-steps li.now")).to_contain_text(["Review"])
    expect(strip.locator(".r-next")).to_contain_text("awaits a verdict")
    expect(strip.locator(".r-others")).to_contain_text("Reviewers")
    picture = strip.get_by_role("img", name="Toxicity over rounds")
    expect(picture).to_be_visible()
    page.wait_for_function(
        "img => img.complete && img.naturalWidth > 0", arg=picture.element_handle()
    )
    rows = strip.locator(".r-figures tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("0.600 (0.550 to 0.650)")
    expect(rows.nth(1)).to_contain_text("0.100")


def test_a_reviewer_lands_on_what_awaits_a_verdict(server, open_page, round_two):
    page = open_page("reviewer", password("reviewer"))
    awaiting = page.locator(".awaiting")
    expect(awaiting.get_by_role("heading")).to_contain_text("await")
    assert page.url == f"{server.url}/review/"
    expect(awaiting.get_by_role("link", name="blind")).to_have_attribute("href", "/blind/")
    entry = awaiting.locator("li", has_text=round_two)
    entry.get_by_role("link").click()
    page.wait_for_url(f"**/review/?run={round_two}")
    expect(awaiting.locator("li", has_text=round_two)).to_be_visible()
    top = awaiting.bounding_box()["y"]
    assert top < page.get_by_label("Evaluation", exact=True).first.bounding_box()["y"]


def test_a_labeler_lands_on_the_board_and_is_told_what_else_there_is(server, board, round_two):
    page = board()
    assert page.url == f"{server.url}/board/"
    with server.store.writing() as db:  # nothing else is left of what other tests have set up
        db.execute("UPDATE tasks SET closed = 1 WHERE prompt_id != ?", [page.labeler])
    press(page, "1", "2", "3", "4", "Enter")
    told = page.locator('[data-part="next"]')
    expect(told).to_contain_text("1 pair of texts waits to be compared")
    expect(told.get_by_role("link", name="Compare")).to_have_attribute("href", "/blind/")


@pytest.mark.parametrize("name", ["engineer", "reviewer"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_homes_fit_a_telephone(server, open_page, round_two, name, scheme):
    page = open_page(name, password(name), viewport=PHONE, color_scheme=scheme)
    expect(page.locator(".r-round, .awaiting").first).to_be_visible()
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
