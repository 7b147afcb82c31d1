"""axe-core (Deque) over the board in its states, light and dark, phone and wide: nothing serious, nothing critical."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.e2e.conftest import press, shown_ids, submitted

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1600, "height": 1000}


def serious(page) -> list[str]:
    """What axe finds serious or critical: rule, and the elements."""
    # Animations would be measured half way.
    page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {node['html'][:160]} {node.get('failureSummary', '')}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize(
    ("screen", "scheme", "other"),
    [(PHONE, "light", "dark"), (WIDE, "dark", "light")],
    ids=["phone", "wide"],
)
def test_axe_finds_nothing_serious(board, screen, scheme, other):
    texts = ("Plain.", "You stupid fucking idiot.", "long " * 600, "مرحبا\x07")
    page = board(texts, prompt="# Heading\n\nA **prompt**", viewport=screen, color_scheme=scheme)
    assert serious(page) == []
    page.emulate_media(color_scheme=other)
    assert serious(page) == []
    page.emulate_media(color_scheme=scheme)
    press(page, "1", "2", "ArrowRight", "f", "1")
    assert serious(page) == []
    press(page, "Enter", "n")
    if screen is PHONE:
        page.get_by_role("button", name="More").click()
    keys = {"s": "Why can you not", "a": "My answers"} if screen is PHONE else {"?": "Keys"}
    for key, name in keys.items():
        press(page, key)
        expect(page.get_by_role("dialog", name=name)).to_be_visible()
        assert serious(page) == []
        press(page, "Escape")
    if screen is WIDE:
        page.get_by_role("button", name="Settings").click()
        assert serious(page) == []
        press(page, "Escape")


def test_every_control_is_named_and_reached_by_tab(server, board):
    """By Tab alone: from the top of the page to Submit, each stop with a name, and none a trap."""
    page = board()
    press(page, "1", "2", "3", "4")
    page.locator(".c-nav .brand").focus()
    names = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "() => { const e = document.activeElement; return e === document.body ? '' : "
            "(e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '').trim().slice(0, 60) "
            "|| `unnamed ${e.outerHTML.slice(0, 80)}` }"
        )
        names.append(name)
        if name.startswith("Submit"):
            break
    assert names[-1].startswith("Submit"), names
    assert not [name for name in names if name.startswith("unnamed")]
    for wanted in (
        "Guidelines",
        "My answers",
        "Settings",
        "Keys",
        "Completion A",
        "Completion D",
        "Flag A",
        "Undo",
    ):
        assert any(name.startswith(wanted) for name in names), (wanted, names)
    ids = shown_ids(page)
    submitted(page)
    (ranking,) = server.rankings(page.labeler)
    assert ranking.ranks == dict(zip(ids, (1, 2, 3, 4), strict=True))
