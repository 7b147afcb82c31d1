"""Runs over each other: what differs, what came out, curves, the Pareto plot, and the export."""

import csv
import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from alignment.feedback import runs
from alignment.feedback.runs import Review, Run
from tests.e2e.workspace import password

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def two(server):
    """Two PPO runs with records, each evaluated, the first one judged."""
    store, names = server.store, ("ppo-low", "ppo-high")
    for number, (name, coefficient) in enumerate(zip(names, (0.05, 0.3), strict=True)):
        folder = store.path.parent / "runs" / name
        folder.mkdir(parents=True)
        rows = [{"iteration": i, "reward": 0.1 * i + number, "kl": 0.2 * i} for i in range(5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        figures = {"reward_last": 0.4 + number, "kl": 2.0 - number}
        config = {"kl_coef": coefficient, "seed": 0}
        ppo = Run(name, "ppo", config, "finished", metrics=figures, folder=str(folder))
        after = {"mean": 0.1 + 0.2 * number, "low": 0.05, "high": 0.4}
        judged = Run(
            f"evaluate-{name}",
            "evaluate",
            {},
            "finished",
            inputs={"policy": str(folder)},
            metrics={"toxicity_after": after},
        )
        for run in (ppo, judged):
            runs.save_run(store, run)
    runs.add_review(store, Review("evaluate-ppo-low", "reviewer", "accept", ""))
    return names


def test_two_runs_over_each_other(server, open_page, two):
    page = open_page("engineer", password("engineer"))
    for name in two:
        page.get_by_label(f"Compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare").click()
    shown = page.locator(".r-compared")

    def row(name):
        return shown.locator("tr", has=page.get_by_role("rowheader", name=name, exact=True))

    expect(row("reward last")).to_contain_text("0.4")
    expect(row("toxicity after")).to_contain_text("0.1 (0.05 to 0.4)")
    expect(row("verdict")).to_contain_text("accept")
    expect(shown.locator(".r-differs")).to_have_text(["kl coef0.050.3"])
    expect(shown.locator("figcaption", has_text="Toxicity after, against KL")).to_be_visible()
    for key in ("reward", "kl"):
        panel = shown.locator(f'.r-curve[data-key="{key}"]')
        expect(panel.locator("canvas")).to_be_visible()
        expect(panel.locator(".u-legend")).to_contain_text("ppo-low")
        expect(panel.locator(".u-legend")).to_contain_text("ppo-high")
    with page.expect_download() as started:
        shown.get_by_role("link", name="CSV").click()
    first, second = csv.DictReader(Path(started.value.path()).read_text().splitlines())
    assert (first["run_id"], first["verdict"], first["toxicity_after_low"]) == (
        two[0],
        "accept",
        "0.05",
    )
    assert (second["config.kl_coef"], second["reward_last"]) == ("0.3", "1.4")
    with page.expect_download() as started:
        shown.get_by_role("link", name="JSON").click()
    assert json.loads(Path(started.value.path()).read_text())["differences"] == {
        "kl_coef": [0.05, 0.3]
    }
