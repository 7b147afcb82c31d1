"""A labeler's day beside the ranking itself: arriving, practice, skipping, changing answers, being paused, races."""

import json
import time

import pytest
from playwright.sync_api import expect

from alignment.feedback import credentials, standing
from tests.e2e.conftest import press, shown_ids, state, submitted, toast

pytestmark = pytest.mark.browser


def rank_in_order(page) -> dict[str, int]:
    """Rank as shown and submit; returns the ranks."""
    ids = shown_ids(page)
    press(page, *(str(number) for number in range(1, len(ids) + 1)))
    submitted(page)
    return {completion: number for number, completion in enumerate(ids, start=1)}


def next_task(page, before: list[str]) -> list[str]:
    """The completions of the task after the one with `before`."""
    page.wait_for_function(
        "id => document.querySelector('.b-card').dataset.id !== id", arg=before[0]
    )
    return shown_ids(page)


def test_practice_comes_first_with_feedback(server, open_page):
    server.task("after-practice")
    page = open_page("novice", server.account("novice", qualified=False))
    mode = page.locator('[data-part="mode"]')
    expect(page.get_by_role("button", name="Cannot judge")).to_be_disabled()
    feedback = page.locator('[data-part="feedback"]')
    # Two rounds of two: the first with an answer the wrong way round, which is not enough.
    for turn in range(4):
        expect(mode).to_contain_text(f"Practice {turn % 2 + 1} of 2")
        ids = shown_ids(page)
        ranks = right_ranks(server, ids)
        if turn == 0:
            ranks = {i: len(ids) + 1 - rank for i, rank in ranks.items()}
        for completion, rank in ranks.items():
            page.locator(f'.b-card[data-id="{completion}"]').focus()
            press(page, str(rank))
        press(page, "Enter")
        expect(feedback).to_be_visible()
        expect(feedback.locator("h2")).to_have_text(
            "Not quite what was expected" if turn == 0 else "That is what was expected"
        )
        expect(feedback.locator("tbody tr")).to_have_count(len(ids))
        if turn % 2:
            round_is = "1 right, 2 needed" if turn == 1 else "you have passed"
            expect(feedback).to_contain_text(round_is)
        press(page, "Enter")
        expect(page.locator(f'.b-card[data-id="{ids[0]}"]')).to_have_count(0)
    expect(mode).to_be_hidden()
    assert {i.rsplit("-", 1)[0] for i in shown_ids(page)} == {"after-practice"}
    assert server.rankings("novice") == [], "practice is no ranking"


def right_ranks(server, ids: list[str]) -> dict[str, int]:
    """The known order of the practice task with these completions."""
    from alignment.feedback.practice import load_practice

    for item in load_practice(server.store, server.workspace):
        if set(item.ranks) == set(ids):
            return dict(item.ranks)
    raise AssertionError("the task is not a practice task")


def test_a_skipped_task_comes_back(server, board):
    page = board()
    ids = shown_ids(page)
    press(page, "2", "s")
    dialog = page.get_by_role("dialog", name="Why can you not judge it?")
    send = dialog.get_by_role("button", name="Skip this task")
    expect(send).to_be_disabled()
    press(page, "6")
    expect(send).to_be_disabled()  # another reason wants words
    dialog.get_by_label("In your words").fill("It is about my own family.")
    send.click()
    expect(toast(page)).to_contain_text("Skipped")
    (skip,) = server.store.rows("SELECT * FROM skips WHERE labeler_id = ?", [page.labeler])
    assert skip["reason"] == "It is about my own family."
    next_task(page, ids)
    press(page, "a")
    answers = page.get_by_role("dialog", name="My answers")
    expect(answers).to_contain_text("It is about my own family.")
    answers.get_by_role("button", name="Rank it after all").click()
    expect(page.locator(f'.b-card[data-id="{ids[0]}"]')).to_be_visible()
    expect(state(page, ids[0])).to_have_text("2nd")  # and so did its draft
    press(page, "1", "3", "4")
    submitted(page)
    assert set(server.rankings(page.labeler)[0].ranks) == set(ids)


def test_the_last_answer_is_taken_back(server, board):
    page = board()
    server.task(f"{page.labeler}-next")
    ids = shown_ids(page)
    first = rank_in_order(page)
    next_task(page, ids)
    press(page, "u")
    expect(page.locator('[data-part="mode"]')).to_contain_text("You are changing an answer")
    assert shown_ids(page) == ids, "in the order it was shown"
    expect(state(page, ids[3])).to_have_text("4th")
    page.reload()  # still the answer that is being changed
    expect(state(page, ids[3])).to_have_text("4th")
    page.locator(f'.b-card[data-id="{ids[3]}"]').focus()
    press(page, "1")
    submitted(page)
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == {ids[0]: 1, ids[3]: 1, ids[1]: 2, ids[2]: 3}
    history = [json.loads(row["ranks"]) for row in server.rows(page.labeler)]
    assert history == [first, ranking.ranks], "the earlier answer is kept"


def test_an_earlier_answer_is_opened_from_the_list_and_left_as_it_was(server, board):
    page = board(prompt="The first prompt")
    server.task(f"{page.labeler}-next", prompt="The second prompt")
    ids = shown_ids(page)
    rank_in_order(page)
    second = next_task(page, ids)
    rank_in_order(page)
    page.get_by_role("button", name="My answers").click()
    page.get_by_role("button", name="Change: The first prompt").click()
    expect(page.locator(f'.b-card[data-id="{ids[0]}"]')).to_be_visible()
    press(page, "4")
    expect(page.locator('[data-part="saved"]')).to_have_text("Draft saved")
    page.get_by_role("button", name="Leave it as it was").click()
    expect(page.locator('[data-part="mode"]')).to_be_hidden()
    assert [set(r.ranks) for r in server.rankings(page.labeler)] == [set(ids), set(second)]
    assert len(server.rows(page.labeler)) == 2


def test_an_answer_opened_while_the_next_task_is_on_its_way_stays_open(server, board):
    page = board(prompt="The first prompt")
    ids = shown_ids(page)

    def late(route):
        answer = route.fetch()
        page.wait_for_timeout(700)
        route.fulfill(response=answer)

    page.route("**/api/tasks/next", late)
    with page.expect_response("**/api/tasks/next"):
        rank_in_order(page)
        page.get_by_role("button", name="My answers").click()
        page.get_by_role("button", name="Change: The first prompt").click()
    expect(page.locator('[data-part="mode"]')).to_be_visible()
    expect(page.locator(f'.b-card[data-id="{ids[0]}"]')).to_be_visible()
    assert len(server.rows(page.labeler)) == 1


def test_two_labelers_race_for_the_last_place(server, board, open_page):
    """Both have the task open, one after her time had run out; the place goes to who submits first."""
    page = board(viewport={"width": 1280, "height": 1000})
    ids = shown_ids(page)
    task_id = server.store.rows("SELECT task_id FROM leases WHERE labeler_id = ?", [page.labeler])[
        0
    ]["task_id"]
    with server.store.writing() as db:
        db.execute("UPDATE tasks SET overlap = 1 WHERE task_id = ?", [task_id])
        db.execute("UPDATE leases SET expires = 0 WHERE labeler_id = ?", [page.labeler])
    rival = open_page("rival", server.account("rival"), viewport={"width": 1280, "height": 1000})
    expect(rival.locator(f'.b-card[data-id="{ids[0]}"]')).to_be_visible()
    press(page, "1", "2", "3", "4")
    press(rival, "4", "3", "2", "1")
    submitted(rival)
    press(page, "Enter")
    expect(page.locator(".b-notice")).to_contain_text("others have completed it")
    assert server.rankings(page.labeler) == []
    stored = server.store.rows("SELECT labeler_id FROM rankings WHERE task_id = ?", [task_id])
    assert [row["labeler_id"] for row in stored] == ["rival"]


def test_a_paused_labeler_reads_why(server, board):
    page = board()
    press(page, "1", "2", "3", "4")
    expect(page.locator('[data-part="saved"]')).to_have_text("Draft saved")
    standing.decide(server.store, page.labeler, "pause", "Let us talk about ties first.", "admin")
    press(page, "Enter")
    expect(page.locator(".b-notice")).to_contain_text("Let us talk about ties first.")
    assert server.rankings(page.labeler) == []
    page.reload()
    expect(page.get_by_role("heading", name="Your work is paused")).to_be_visible()
    expect(page.locator('[data-part="message"]')).to_contain_text("Let us talk about ties first.")
    standing.decide(server.store, page.labeler, "resume", "We have talked.", "admin")
    page.reload()  # what was submitted before the pause took effect is still on the device
    expect(page.locator(".b")).to_have_attribute("data-state", "work")
    assert len(server.rankings(page.labeler)) == 1


def test_a_message_is_read_once(server, board):
    page = board()
    standing.decide(server.store, page.labeler, "message", "Thank you for your care.", "admin")
    page.reload()
    message = page.locator('[data-part="message"]')
    expect(message).to_contain_text("Thank you for your care.")
    message.get_by_role("button", name="I have read it").click()
    expect(message).to_be_hidden()
    page.reload()
    expect(page.locator(".b-card")).to_have_count(4)
    expect(message).to_be_hidden()


def test_a_break_is_offered(board):
    page = board()
    page.route("**/api/tasks/next", tired)  # after an hour of answers; the test has no hour
    page.reload()
    offer = page.locator('[data-part="rest"]')
    expect(offer).to_contain_text("You have been ranking for 61 minutes")
    offer.get_by_role("button", name="Take a break").click()
    rest = page.get_by_role("dialog", name="Rest your eyes")
    expect(rest.locator(".b-clock")).to_have_text("0:01")
    rest.get_by_role("button", name="Back to work").click()
    expect(offer).to_be_hidden()
    expect(page.locator(".b-card.current")).to_be_focused()


def tired(route) -> None:
    response = route.fetch()
    body = response.json()
    body["progress"]["minutes_since_break"] = 61.2
    route.fulfill(response=response, json=body)


def test_from_the_invitation_to_the_first_task_in_30_seconds(server, browser):
    secret = credentials.invite(server.store, "labeler", "admin", 7)
    with browser.new_context() as context:  # nothing cached
        page = context.new_page()
        started = time.monotonic()
        page.goto(f"{server.url}/invite/{secret}")
        page.get_by_label("Name").fill("newcomer")
        page.get_by_label("Password (").fill("a password of hers")
        page.get_by_label("The password again").fill("a password of hers")
        page.get_by_role("button", name="Begin").click()
        expect(page.locator(".b-card.current")).to_be_focused(timeout=30_000)
        seconds = time.monotonic() - started
    assert seconds < 30
