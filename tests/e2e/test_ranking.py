"""Ranking in the browser: by keys, mouse and finger. What was stored is checked, not what the page says."""

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import press, shown_ids, state, submitted, toast

pytestmark = pytest.mark.browser


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


def test_four_completions_take_five_keys(server, board):
    page = board()
    ids = shown_ids(page)
    submit = page.get_by_role("button", name="Submit")
    expect(submit).to_be_disabled()
    page.keyboard.press("Enter")
    expect(toast(page)).to_contain_text("Not yet")
    pressed = []
    for key in ("2", "4", "1", "3"):
        page.keyboard.press(key)
        pressed.append(key)
    expect(submit).to_be_enabled()
    assert server.rankings(page.labeler) == []
    submitted(page)
    pressed.append("Enter")
    assert len(pressed) < 8
    ranking = the_ranking(server, page)
    assert ranking.ranks == dict(zip(ids, (2, 4, 1, 3), strict=True))
    assert ranking.positions == {completion: place for place, completion in enumerate(ids)}
    assert ranking.seconds > 0 and not ranking.simulated
    expect(page.locator('[data-part="progress"]')).to_contain_text("1 done")


def test_ties_undo_arrows_and_squeezing_in_by_keys_alone(server, board):
    page = board()
    a, b, c, d = shown_ids(page)
    live = page.locator('[data-part="live"]')
    press(page, "1")  # A first, the focus goes to B
    expect(live).to_have_text("A 1st. Next: B.")
    press(page, "=")  # B tied with A
    expect(live).to_have_text("B 1st, tied with A. Next: C.")
    press(page, "4", "u", "2")  # C last, no: second
    press(page, "Shift+Digit1")  # D before all others: D, A = B, C
    expect(live).to_have_text("D 1st. All ranked. Enter submits.")
    press(page, "ArrowLeft", "ArrowLeft")  # the focus on B
    expect(page.locator(".b-card.current")).to_have_attribute("data-id", b)
    press(page, "ArrowUp")  # out of the tie, above A
    expect(state(page, b)).to_have_text("2nd")
    expect(state(page, a)).to_have_text("3rd")
    press(page, "ArrowUp")  # past D
    expect(live).to_have_text("B 1st. All ranked. Enter submits.")
    press(page, "ArrowUp")
    expect(live).to_have_text("B is at the top already.")
    press(page, "Backspace")
    expect(state(page, b)).to_have_text("not ranked")
    press(page, "u", "ArrowRight", "ArrowDown")  # C stays last; B is back
    submitted(page)
    assert the_ranking(server, page).ranks == {b: 1, d: 2, a: 3, c: 4}


def test_ties_are_stored_as_equal_ranks(server, board):
    page = board()
    a, b, c, d = shown_ids(page)
    press(page, "1", "=", "3", "3")
    submitted(page)
    assert the_ranking(server, page).ranks == {a: 1, b: 1, c: 2, d: 2}


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
    expect(toast(page)).to_have_text("Saved.")
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
    page.get_by_role("button", name="More").tap()
    page.get_by_label("Why?").fill("D is kinder than C.")
    page.get_by_role("button", name="More").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Submit").tap()
    expect(toast(page)).to_have_text("Saved.")
    assert the_ranking(server, page).ranks == {b: 1, d: 2, c: 3, a: 4}
    assert server.rows(page.labeler)[0]["rationale"] == "D is kinder than C."


def test_none_acceptable_needs_no_order(server, board):
    page = board()
    ids = shown_ids(page)
    press(page, "n")
    expect(page.get_by_role("button", name="None acceptable")).to_have_attribute(
        "aria-pressed", "true"
    )
    press(page, "1")  # an order begun must be finished
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    press(page, "u")
    submitted(page)
    ranking = the_ranking(server, page)
    assert ranking.none_acceptable and ranking.ranks == dict.fromkeys(ids, 1)


def test_flags_rationale_and_confidence_go_with_the_answer(server, board):
    page = board()
    a, b, *_ = shown_ids(page)
    press(page, "1", "4", "2", "3", "ArrowLeft", "ArrowLeft", "f", "2", "5")
    press(
        page, "Enter"
    )  # B: hateful, personal data; this Enter ends the dialog, and submits nothing
    expect(page.locator(f'.b-card[data-id="{b}"] .b-flagged')).to_have_text(
        "Hateful, Personal data"
    )
    sure = page.get_by_role("radio", name="2")
    sure.check()
    sure.click()  # the same again takes it back
    expect(sure).not_to_be_checked()
    page.get_by_role("radio", name="4").check()
    press(page, "w")
    page.keyboard.type("1 insults; g and u are no keys here")
    press(page, "Escape")
    assert server.rankings(page.labeler) == []
    submitted(page)
    (row,) = server.rows(page.labeler)
    assert row["flags"] == f'{{"{b}": ["hateful", "personal-data"]}}'
    assert row["confidence"] == 4
    assert row["rationale"] == "1 insults; g and u are no keys here"
    assert the_ranking(server, page).ranks[a] == 1


def test_keys_of_one_character_can_be_turned_off(server, board):
    page = board()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Keys of one character").uncheck()
    page.get_by_role("button", name="Close").click()
    page.locator(".b-card").first.focus()
    press(page, "1", "n", "g", "?")
    expect(page.locator(".b-card.ranked")).to_have_count(0)
    expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "ArrowDown")  # no key of one character
    expect(page.locator(".b-card.ranked")).to_have_count(1)
    page.reload()
    expect(page.locator(".b-card.ranked")).to_have_count(1)
    press(page, "2")
    expect(page.locator(".b-card.ranked")).to_have_count(1)


def test_help_guidelines_and_the_end_of_the_queue(server, board):
    page = board()
    press(page, "?")
    keys = page.get_by_role("dialog", name="Keys")
    expect(keys).to_be_visible()
    for key in ("Enter", "=", "u", "n", "s", "f", "g", "a"):
        expect(keys.locator("kbd", has_text=key).first).to_be_visible()
    press(page, "1", "Escape")  # not a placement while the dialog is open
    expect(page.locator(".b-card.ranked")).to_have_count(0)
    press(page, "g")
    expect(page.get_by_role("dialog", name="Guidelines")).to_contain_text("Harmless")
    press(page, "Escape")
    page.set_viewport_size({"width": 1600, "height": 1000})
    expect(page.locator(".b-panel")).to_contain_text("Harmless")
    press(page, "g")
    expect(page.locator(".b-panel")).to_be_hidden()
    with server.store.writing() as db:  # nothing else is left of what other tests have set up
        db.execute("UPDATE tasks SET closed = 1 WHERE prompt_id != ?", [page.labeler])
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.get_by_role("heading", name="All done. Thank you!")).to_be_visible()
