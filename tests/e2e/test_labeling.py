"""What people do in the browser, checked in the store."""

import re
import time

import pytest
from playwright.sync_api import expect

from alignment.feedback import runs
from tests.e2e.workspace import HOSTILE, password

pytestmark = pytest.mark.browser

TEXTS = ("You are welcome.", "No.", "Of course, with pleasure!", "Go away.")


@pytest.fixture
def board(server, open_page, request):
    """`board(texts)`: a page with a fresh labeler in front of a fresh task; its `labeler` is the account's name."""
    counter = iter(range(9))

    def open_(texts=TEXTS, prompt="Thank you!", **options):
        name = f"{request.node.originalname}-{next(counter)}"
        server.task(name, texts, prompt)
        page = open_page(name, server.account(name), **options)
        expect(page.locator(".b-card")).to_have_count(len(texts))
        assert {i.rsplit("-", 1)[0] for i in shown_ids(page)} == {name}, "another task is shown"
        page.labeler = name
        return page

    return open_


def shown_ids(page) -> list[str]:
    return page.locator(".b-card").evaluate_all("cards => cards.map(card => card.dataset.id)")


def the_ranking(server, page):
    """The only ranking of the page's labeler."""
    (ranking,) = server.rankings(page.labeler)
    return ranking


def middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, grip, to: tuple[float, float]) -> None:
    page.mouse.move(*middle(grip))
    page.mouse.down()
    page.mouse.move(*to, steps=6)
    page.mouse.up()


def place(page, number: int):
    return page.locator(f'.b-place[data-place="{number}"]')


def test_ranking_by_keyboard(server, board):
    page = board()
    ids = shown_ids(page)
    submit = page.get_by_role("button", name="Submit")
    expect(submit).to_be_disabled()
    page.keyboard.press("Enter")
    expect(page.locator(".b-toast")).to_contain_text("Not yet")
    for key in "2413":
        page.keyboard.press(key)
    expect(submit).to_be_enabled()
    assert server.rankings(page.labeler) == []
    page.keyboard.press("Enter")
    expect(page.locator(".b-toast")).to_have_text("Saved.")
    ranking = the_ranking(server, page)
    assert ranking.ranks == dict(zip(ids, (2, 4, 1, 3), strict=True))
    assert ranking.positions == {completion: place for place, completion in enumerate(ids)}
    assert ranking.seconds > 0 and not ranking.simulated
    expect(page.locator(".b-progress span")).to_contain_text("1 done")


def test_ties_undo_and_squeezing_in_by_keyboard(server, board):
    page = board()
    a, b, c, d = shown_ids(page)
    page.keyboard.press("1")  # A first, the focus goes to B
    page.keyboard.press("=")  # B tied with A
    page.keyboard.press("4")  # C last
    page.keyboard.press("u")
    page.keyboard.press("2")  # C second instead
    page.keyboard.press("Shift+Digit1")  # D before all others
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # back on B
    expect(page.locator(".b-card.current")).to_have_attribute("data-id", b)
    page.keyboard.press("Backspace")
    expect(page.locator(".b-card.current .b-state")).to_have_text("not ranked")
    page.keyboard.press("u")
    page.keyboard.press("Enter")
    expect(page.locator(".b-toast")).to_have_text("Saved.")
    assert the_ranking(server, page).ranks == {d: 1, a: 2, b: 2, c: 3}


def test_ranking_by_drag(server, board):
    page = board()
    a, b, c, d = shown_ids(page)
    card = {i: page.locator(f'.b-card[data-id="{i}"]') for i in (a, b, c, d)}
    drag(page, card[a].locator(".b-letter"), middle(place(page, 3)))
    drag(page, card[b].locator(".b-text"), middle(place(page, 1)))
    drag(page, card[c].locator(".b-letter"), middle(place(page, 2)))
    box = place(page, 1).bounding_box()  # near its upper edge: before it
    drag(page, card[d].locator(".b-letter"), (box["x"] + 80, box["y"] + 3))
    expect(place(page, 1).locator(".b-chip")).to_have_attribute("data-chip", d)
    expect(place(page, 4).locator(".b-chip")).to_have_attribute("data-chip", a)
    drag(page, place(page, 4).locator(".b-chip"), middle(place(page, 2)))  # a tie with B
    expect(place(page, 2).locator(".b-chip")).to_have_count(2)
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".b-toast")).to_have_text("Saved.")
    assert the_ranking(server, page).ranks == {d: 1, a: 2, b: 2, c: 3}


def test_ranking_by_touch_on_a_phone(server, board):
    page = board(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    a, b, c, d = shown_ids(page)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    start = middle(page.locator(f'.b-card[data-id="{a}"] .b-letter'))
    end = middle(place(page, 4))
    touch("touchStart", start)
    for share in (0.2, 0.5, 0.8, 1.0):
        touch("touchMove", tuple(s + share * (e - s) for s, e in zip(start, end, strict=True)))
    touch("touchEnd")
    expect(place(page, 4).locator(".b-chip")).to_have_attribute("data-chip", a)
    # Straight after a quick drag, a tap must not be taken for the finger that stops a fling.
    for completion, number in ((b, 1), (c, 3)):
        page.locator(f'.b-card[data-id="{completion}"] [data-number="{number}"]').tap()
    page.locator(f'.b-card[data-id="{d}"] .b-letter').tap()
    place(page, 2).tap()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Submit").tap()
    expect(page.locator(".b-toast")).to_have_text("Saved.")
    assert the_ranking(server, page).ranks == {b: 1, d: 2, c: 3, a: 4}


def test_hostile_texts_are_shown_as_text(server, board):
    texts = (*HOSTILE, "<img src=x onerror='window.hacked=1'>", "مرحبا <b>hello</b>")
    page = board(texts, prompt=HOSTILE[0] + HOSTILE[1])
    ids = shown_ids(page)
    shown = page.locator(".b-text").evaluate_all("texts => texts.map(text => text.textContent)")
    assert dict(zip(ids, shown, strict=True)) == {
        f"{page.labeler}-{i}": text for i, text in enumerate(texts)
    }
    assert page.locator(".b-prompt p").text_content() == HOSTILE[0] + HOSTILE[1]
    page.keyboard.press("1")  # the chips of the rail show the texts as well
    assert page.locator(".b-card script, .b-card img, .b-rail img, .b-card b").count() == 0
    assert page.evaluate("window.hacked") is None


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
    for key in "1234":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator(".b-notice")).to_contain_text("Not saved yet")
    assert server.rankings(page.labeler) == []
    page.get_by_role("button", name="Try now").click()
    expect(page.locator(".b-toast")).to_have_text("Saved.")
    expect(page.locator(".b-notice")).to_be_hidden()
    assert len(tries) == 3 and tries[0] == tries[1] == tries[2]
    assert the_ranking(server, page).ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))


def test_a_reload_keeps_the_draft(server, board):
    page = board()
    a, b, *_ = shown_ids(page)
    page.keyboard.press("3")
    page.keyboard.press("1")
    expect(page.locator(f'.b-card[data-id="{b}"] .b-state')).to_have_text("1st")
    page.reload()
    expect(page.locator(f'.b-card[data-id="{a}"] .b-state')).to_have_text("3rd")
    expect(page.locator(f'.b-card[data-id="{b}"] .b-state')).to_have_text("1st")


def test_help_guidelines_and_the_end_of_the_queue(server, board):
    page = board()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("1")  # not a placement while the dialog is open
    page.keyboard.press("Escape")
    expect(page.locator(".b-card.ranked")).to_have_count(0)
    page.keyboard.press("g")
    expect(page.get_by_role("dialog", name="Guidelines")).to_contain_text("Harmless")
    page.keyboard.press("Escape")
    while page.locator(".b-card").count() and page.locator(".b-work").is_visible():
        before = shown_ids(page)
        for number in range(1, len(before) + 1):
            page.keyboard.press(str(number))
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('.b').dataset.state === 'done' || "
            "document.querySelector('.b-card').dataset.id !== before",
            arg=before[0],
        )
    expect(page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()


def test_a_labeler_reaches_the_board_only(server, board):
    page = board()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.locator(".c-nav nav a").count() == 0
    for path in ("/runs/", "/review/", "/reports/evaluate-1"):
        assert page.goto(server.url + path).status == 403
        expect(page.get_by_text("has no access to this page")).to_be_visible()
    page.goto(server.url)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_reviewer_sees_the_report_and_stores_a_verdict(server, open_page):
    page = open_page("reviewer", password("reviewer"))
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
    page.locator('tr[data-run="consensus-1"]').click()
    expect(page.locator(".picture svg")).to_be_visible()
    expect(
        page.get_by_role("row", name=re.compile("reversed-1.*ranks in reverse", re.S))
    ).to_be_visible()
    page.locator('tr[data-run="reward-1"]').click()
    expect(page.locator(".message")).to_have_text(f"It failed: {HOSTILE[0]} {HOSTILE[1]}")
    assert page.evaluate("window.hacked") is None
    page.locator('tr[data-run="ppo-1"] a').click()
    expect(page.locator(".c-curves canvas, .c-curves svg.marks")).to_have_count(2)
    assert page.url.endswith("?run=ppo-1")
    folder = server.store.path.parent / "runs" / "ppo-1"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('ard": 1}\n{"iteration": 6, "entropy": 1.5}\n')
    started = time.monotonic()
    expect(page.locator(".c-curves canvas, .c-curves svg.marks")).to_have_count(3)
    assert time.monotonic() - started < 10
