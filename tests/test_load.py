"""A short version of `make bench-load`: labelers at work while the server is killed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from alignment.feedback.store import Store
from benchmarks.load import Load, Tally, check_store, labeler_name, make_workspace, measure


@pytest.mark.slow
def test_nothing_confirmed_is_lost_when_the_server_is_killed(tmp_path):
    load = Load(labelers=6, answers=4, kills=2, think=(0.1, 0.5))
    # In a thread of its own: a browser test earlier in the session leaves its event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        figures = pool.submit(measure, load, tmp_path).result()
    assert figures["kills"] == 2 and figures["retries"] > 0
    # The last places may lie in tasks that the one labeler left has ranked already.
    assert 20 <= figures["submitted"] == figures["stored"] <= 24
    for key in ("lost", "duplicated", "overlap_exceeded", "errors"):
        assert figures[key] == 0, figures


def test_the_check_would_notice_a_lost_a_changed_and_an_extra_ranking(tmp_path):
    workspace = make_workspace(tmp_path / "workspace", Load(labelers=4, answers=3))
    store = Store(workspace / "feedback.db")
    task = store.tasks()[0]
    ranks = {c: 1 for c in task.completion_ids}
    columns = "task_id, prompt_id, labeler_id, ranks, simulated, created, token"
    for number in range(4):
        row = [
            task.task_id,
            task.prompt_id,
            labeler_name(number),
            "{}",
            0,
            "now",
            f"token-{number}",
        ]
        if number == 0:
            row[3] = json.dumps(ranks)
        store.db.execute(f"INSERT INTO rankings ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    store.close()
    said = [(labeler_name(0), "token-0", ranks), (labeler_name(1), "token-1", ranks)]
    figures = check_store(workspace, Tally(confirmed=[*said, (labeler_name(2), "gone", ranks)]))
    assert (figures["lost"], figures["overlap_exceeded"], figures["duplicated"]) == (2, 1, 0)
