"""An engineer settles a disputed prompt in the browser; checked in the store."""

import pytest
from playwright.sync_api import expect

from alignment.feedback.known_orders import known_orders
from alignment.records import Ranking
from tests.e2e.workspace import HOSTILE, password

pytestmark = pytest.mark.browser


def test_an_engineer_settles_a_disputed_prompt_and_takes_it_back(server, open_page):
    server.task("disputed", HOSTILE, "Who is right? <b>" + HOSTILE[1])
    ids = [f"disputed-{n}" for n in range(4)]
    for name, order in {"up": (1, 2, 3, 4), "down": (4, 3, 2, 1), "middle": (2, 1, 4, 3)}.items():
        server.account(f"disputing-{name}")
        ranks = dict(zip(ids, order, strict=True))
        server.store.add_rankings([Ranking("disputed", f"disputing-{name}", ranks)])
    page = open_page("engineer", password("engineer"))
    page.get_by_role("link", name="Consensus", exact=True).click()
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator('#disputes [data-prompt="disputed"]').first.click()
    dispute = page.locator("#dispute")
    expect(dispute.get_by_role("heading", name="disputed")).to_be_in_viewport()
    page.set_viewport_size({"width": 1280, "height": 1000})
    expect(dispute.locator(".said").first).to_have_text("Who is right? <b>" + HOSTILE[1])
    for name in ("up", "down", "middle"):
        expect(dispute.locator("thead")).to_contain_text(f"disputing-{name}")
    assert dispute.locator("td.said").evaluate_all(
        "c => c.map(x => x.textContent).sort()"
    ) == sorted(HOSTILE)
    for completion, rank in zip(ids[:3], ("3", "1", "1"), strict=True):
        dispute.locator(f'select[data-completion="{completion}"]').select_option(rank)
    dispute.get_by_label("Why").fill("C and B are level")
    dispute.get_by_role("button", name="Settle").click()
    expect(dispute.locator(".settled")).to_contain_text("C and B are level")
    (order,) = [o for o in known_orders(server.store) if o.prompt_id == "disputed"]
    assert order.ranks == {ids[0]: 3, ids[1]: 1, ids[2]: 1}
    assert (order.source, order.set_by) == ("adjudication", "engineer")
    expect(page.locator("#disputes")).to_contain_text("Settled by an expert")
    dispute.get_by_role("button", name="Withdraw").click()
    expect(dispute.locator(".settled")).to_have_count(0)
    assert known_orders(server.store) == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("#dispute script, #dispute img, #dispute .said b").count() == 0


def test_a_labeler_is_turned_away(server, open_page):
    page = open_page("labeler", password("labeler"))
    page.wait_for_url("**/board/**")
    for path in ("/consensus/", "/exports/rankings"):
        answer = page.request.get(server.url + path)
        assert answer.status == 403 and "disputing" not in answer.text()
