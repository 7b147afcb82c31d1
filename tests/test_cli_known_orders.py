"""`concord gold`, `concord adjudicate`, and what `concord consensus` makes of them."""

import json
from pathlib import Path

import pytest

from alignment.feedback import known_orders as known
from alignment.feedback import people, runs
from alignment.feedback.people import Labeler
from alignment.records import Completion, Prompt, Ranking
from alignment.workspace import Workspace
from tests.test_cli import refused, rows
from tests.test_loop import concord, last_json


@pytest.fixture
def workspace(tmp_path, capsys):
    """Three prompts; ann, ben and cy all prefer the first completion of each."""
    assert concord(capsys, "init", tmp_path / "w")[0] == 0
    with Workspace.open(tmp_path / "w") as opened:
        ids = [f"p{n}" for n in range(3)]
        opened.store.add_prompts([Prompt(p, f"Say hello, {p}") for p in ids])
        completions = [Completion(f"{p}{c}", p, f"{c} to {p}") for p in ids for c in "ab"]
        opened.store.add_tasks(completions, 3)
        people.add_labelers(opened.store, [Labeler(n, n, False) for n in ("ann", "ben", "cy")])
        opened.store.add_rankings(
            [Ranking(p, n, {f"{p}a": 1, f"{p}b": 2}) for p in ids for n in ("ann", "ben", "cy")]
        )
    return tmp_path / "w"


def preferred(result):
    code, out, err = result
    assert code == 0, err
    figures = last_json(out)
    lines = (Path(figures["folder"]) / "pairs.jsonl").read_text().splitlines()
    return {row["prompt_id"]: row["chosen_id"] for row in map(json.loads, lines)}, figures


def test_an_adjudication_settles_a_prompt_is_recorded_and_can_be_withdrawn(workspace, capsys):
    run = ("consensus", "-w", workspace, "--json")
    assert preferred(concord(capsys, *run))[0] == {"p0": "p0a", "p1": "p1a", "p2": "p2a"}
    settle = ("adjudicate", "p1", "--rank", "p1b=1", "--rank", "p1a=2", "-w", workspace)
    code, out, err = concord(capsys, *settle, "--by", "eve", "--comment", "misread", "--json")
    assert code == 0, err
    order_id = last_json(out)["order_id"]
    chosen, figures = preferred(concord(capsys, *run))
    assert chosen == {"p0": "p0a", "p1": "p1b", "p2": "p2a"}
    assert figures["settled_prompts"] == 1
    with Workspace.open(workspace) as opened:
        recorded = runs.run(opened.store, figures["run_id"]).inputs["known_orders"]
    assert [(r["order_id"], r["set_by"], r["comment"]) for r in recorded] == [
        (order_id, "eve", "misread")
    ]
    code, out, _ = concord(capsys, "gold", "list", "-w", workspace, "--json")
    assert [row["source"] for row in last_json(out)["known_orders"]] == ["adjudication"]
    assert concord(capsys, "gold", "list", "-w", workspace)[0] == 0
    code, out, _ = concord(capsys, "adjudicate", "p1", "--withdraw", "-w", workspace, "--json")
    assert (code, last_json(out)["withdrawn"]) == (0, 1)
    assert preferred(concord(capsys, *run))[0]["p1"] == "p1a"
    refused(concord(capsys, "adjudicate", "p1", "--withdraw", "-w", workspace), "No adjudication")


def test_gold_is_imported_whole_or_not_at_all(workspace, tmp_path, capsys):
    good = {"prompt_id": "p0", "ranks": {"p0a": 2, "p0b": 1}}
    bad = rows(tmp_path / "bad.jsonl", good, {"prompt_id": "p1", "ranks": {"p1a": 1, "ghost": 2}})
    refused(concord(capsys, "gold", "import", bad, "-w", workspace), "'ghost'")
    half = rows(tmp_path / "half.jsonl", good, {"prompt_id": "p1"})
    refused(concord(capsys, "gold", "import", half, "-w", workspace), "half.jsonl, line 2", "ranks")
    with Workspace.open(workspace) as opened:
        assert known.known_orders(opened.store) == []
    file = rows(tmp_path / "gold.jsonl", good)
    code, out, _ = concord(capsys, "gold", "import", file, "-w", workspace, "--json")
    assert (code, last_json(out)) == (0, {"known_orders": 1, "prompts": 1})
    assert preferred(concord(capsys, "consensus", "-w", workspace, "--json"))[0]["p0"] == "p0b"


def test_plain_files_take_a_gold_file(workspace, tmp_path, capsys):
    files = []
    for what in ("prompts", "completions", "rankings"):
        file = tmp_path / f"{what}.jsonl"
        assert concord(capsys, "export", what, "-w", workspace, "--out", file)[0] == 0
        files += [f"--{what}", file]
    gold = rows(tmp_path / "gold.jsonl", {"prompt_id": "p2", "ranks": {"p2b": 1, "p2a": 2}})
    out = tmp_path / "agreed"
    chosen, _ = preferred(
        concord(capsys, "consensus", *files, "--gold", gold, "--out", out, "--json")
    )
    assert chosen["p2"] == "p2b"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Give the ranks"),
        (["--rank", "p1a=1", "--withdraw"], "Give the ranks"),
        (["--rank", "p1a"], "COMPLETION_ID=RANK"),
        (["--rank", "p1a=best"], "whole numbers"),
        (["--rank", "p1a=1", "--rank", "p1a=2"], "two ranks"),
        (["--rank", "p1a=1"], "2 to 9"),
        (["--rank", "p1a=1", "--rank", "ghost=2"], "'ghost'"),
    ],
)
def test_what_is_no_adjudication_is_refused(workspace, capsys, arguments, says):
    refused(concord(capsys, "adjudicate", "p1", *arguments, "-w", workspace), says)
