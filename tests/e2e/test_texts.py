"""What is shown of prompts and completions: text, whatever it holds, and readable in any script and length."""

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import press, shown_ids, submitted
from tests.e2e.workspace import HOSTILE

pytestmark = pytest.mark.browser


def card(page, number: int):
    return page.locator(f'.b-card[data-id="{page.labeler}-{number}"]')


def text(page, number: int):
    return card(page, number).locator(".b-text")


def test_hostile_texts_are_shown_as_text(server, board):
    texts = (*HOSTILE, "<img src=x onerror='window.hacked=1'>", "{% raw %} {{{constructor}}} \\")
    page = board(texts, prompt=HOSTILE[0] + HOSTILE[1])
    ids = shown_ids(page)
    shown = page.locator(".b-card .b-text").evaluate_all("texts => texts.map(t => t.textContent)")
    assert dict(zip(ids, shown, strict=True)) == {
        f"{page.labeler}-{i}": text for i, text in enumerate(texts)
    }
    assert page.locator(".b-prompt .b-text").text_content() == HOSTILE[0] + HOSTILE[1]
    press(page, "1")  # the chips of the rail show the texts as well
    assert page.locator(".b-card script, .b-card img, .b-rail img, .b-card b b").count() == 0
    assert page.evaluate("window.hacked") is None
    press(page, "2", "3", "4", "5", "6")
    submitted(page)
    assert set(server.rankings(page.labeler)[0].ranks) == set(ids)


def test_control_characters_are_seen(board):
    texts = (
        "bell\x07 escape\x1b[31m",
        "left \u202eto right\u202c",
        "zero\x00byte",
        "fine\r\n\tsecond line",
    )
    page = board(texts)
    expect(text(page, 0)).to_have_text("bellBEL escapeESC[31m")
    assert text(page, 1).text_content() == "left U+202Eto rightU+202C"
    assert text(page, 2).text_content() == "zeroNULbyte"
    assert text(page, 3).text_content() == "fine\n\tsecond line"
    expect(page.locator(".b-card .b-control")).to_have_count(5)


def test_a_long_text_folds_and_unfolds(server, board):
    story = "All work and no play. " * 2273
    page = board((story[:50_000], "Short."))
    assert text(page, 0).text_content() == story[:50_000]
    box = text(page, 0).bounding_box()
    assert box["height"] < 500
    unfold = card(page, 0).get_by_role("button", name="Show all of completion")
    expect(unfold).to_contain_text("50,000 characters")
    unfold.click()
    assert text(page, 0).bounding_box()["height"] > 5_000
    press(page, "o")
    assert text(page, 0).bounding_box()["height"] == box["height"]
    press(page, "1", "2")
    submitted(page)
    assert len(server.rankings(page.labeler)) == 1


def test_markdown_is_built_without_markup(board):
    prompt = "# Sort\n\nUse **`sorted`**.\n\n- one\n- two"
    answer = (
        "## Steps\n\n1. *first*\n2. second\n\n```python\nprint('<b>')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "[here](https://example.org/x) ![picture](https://example.org/y) <b>bold</b> <script>window.hacked=1</script>"
        "\n\n[bad](javascript:window.hacked=2)"
    )
    page = board((answer, "Plain."), prompt=prompt)
    expect(page.locator(".b-prompt strong code")).to_have_text("sorted")
    expect(page.locator(".b-prompt li")).to_have_text(["one", "two"])
    expect(text(page, 0).locator("ol li em")).to_have_text("first")
    expect(text(page, 0).locator("pre")).to_have_text("print('<b>')")
    expect(text(page, 0).locator("td")).to_have_text(["1", "2"])
    expect(text(page, 0)).to_contain_text("here (https://example.org/x)")
    expect(text(page, 0)).to_contain_text(
        "[image: picture] (https://example.org/y) <b>bold</b> <script>"
    )
    assert page.locator(".b-card .b-text").locator("a, img, script, b").count() == 0
    assert page.evaluate("window.hacked") is None  # and no request left: the fixture looks
    press(page, "1", "m")
    assert text(page, 0).text_content() == answer
    assert page.locator(".b-prompt .b-text").text_content() == prompt
    expect(page.locator(".b-card.ranked")).to_have_count(1)


def test_right_to_left_and_chinese_stay_right(board):
    texts = ("مرحبا (hello)!", "你好，世界。", "これは日本語です。", "Plain (text)!")
    page = board(texts, prompt="שלום, how are you?")
    languages = [text(page, i).get_attribute("lang") for i in range(4)]
    assert languages == ["ar", "zh", "ja", None]
    sides = [text(page, i).evaluate("e => getComputedStyle(e).direction") for i in range(4)]
    assert sides == ["rtl", "ltr", "ltr", "ltr"]
    # The head of the card, and the page around it, keep their direction.
    assert card(page, 0).evaluate("e => getComputedStyle(e).direction") == "ltr"
    assert page.locator(".b-prompt .b-text").evaluate("e => getComputedStyle(e).direction") == "rtl"


def test_a_chat_of_several_turns(board):
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "<i>How</i> are you?"},
    ]
    page = board(prompt=chat)
    expect(page.locator(".b-turn h2")).to_have_text(["System", "User", "Assistant", "User"])
    expect(page.locator(".b-turn .b-text").last).to_have_text("<i>How</i> are you?")


def test_toxic_text_is_blurred_until_asked_for(server, board):
    insult = "You are a stupid fucking idiot, go to hell."
    page = board((insult, "Thank you, that is kind."))
    assert page.evaluate("navigator.userAgent")  # the page stands
    veiled = card(page, 0)
    expect(veiled.get_by_text("This text may be toxic")).to_be_visible()
    assert "blur" in text(page, 0).evaluate("e => getComputedStyle(e).filter")
    assert text(page, 0).evaluate("e => e.inert")
    assert text(page, 1).evaluate("e => getComputedStyle(e).filter") == "none"
    veiled.focus()
    press(page, "1")
    expect(page.locator(".b-chip").first).not_to_contain_text("idiot")
    veiled.focus()
    press(page, "b")
    assert text(page, 0).evaluate("e => getComputedStyle(e).filter") == "none"
    page.reload()
    expect(card(page, 0).get_by_role("button", name="Show it")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Blur texts that may be toxic").uncheck()
    expect(card(page, 0).get_by_role("button", name="Show it")).to_be_hidden()
    page.reload()
    expect(text(page, 0)).to_be_visible()
    assert text(page, 0).evaluate("e => getComputedStyle(e).filter") == "none"


def test_an_answer_that_says_nothing_is_said_to(board):
    page = board(texts=("", "Fine."))
    expect(page.locator(".b-card .b-silent")).to_have_text("(says nothing)")
