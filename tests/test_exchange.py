"""Bringing prompts and completions in, and taking feedback out."""

import json

import pytest

from alignment import exchange, labelling
from alignment.errors import InputError, StoreError
from alignment.feedback import runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.feedback.toxicity_scores import toxicity_scores
from alignment.records import Completion, Prompt


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "feedback.db", create=True)
    yield store
    store.close()


def test_prompts_come_in_as_jsonl_and_csv(store):
    jsonl = (
        '{"prompt": "Hi", "prompt_id": "a"}\n\n{"prompt": [{"role": "user", "content": "Yo"}]}\n'
    )
    assert exchange.import_prompts(store, exchange.parse_rows(jsonl.encode(), "jsonl")) == {
        "read": 2,
        "added": 2,
    }
    table = '\ufeffprompt_id,prompt,split\na,Hi,\nb,"Two\nlines, quoted",held-out\n'
    figures = exchange.import_prompts(store, exchange.parse_rows(table.encode(), "csv"))
    assert figures == {"read": 2, "added": 1}
    assert store.prompt("b") == Prompt("b", "Two\nlines, quoted", "held-out")


@pytest.mark.parametrize(
    ("content", "format_", "says"),
    [
        (b"\xff", "jsonl", "UTF-8"),
        (b'{"prompt": "x"}\n{', "jsonl", "Line 2"),
        (b"[1]", "jsonl", "Line 1: expected"),
        (b"[" * 100_000, "jsonl", "Line 1"),
        (b"a,b\n1,2,3\n", "csv", "Row 2"),
        (b'a,b\n"x', "csv", "not valid CSV"),
        (b"text,tokens\nx,many\n", "csv", "whole number"),
        (b"text,finished\nx,perhaps\n", "csv", "true or false"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_line(content, format_, says):
    with pytest.raises(InputError, match=says):
        exchange.parse_rows(content, format_)


def test_completions_become_tasks_in_either_shape_and_are_scored(store):
    store.add_prompts([Prompt("p", "Hi")])
    rows = [
        {"prompt_id": "p", "text": "Hello!", "completion_id": "p-0"},
        {"prompt_id": "p", "text": "You fucking idiot.", "completion_id": "p-1", "finished": False},
        {"prompt": "Bye", "completions": ["See you.", "Go."]},
    ]
    figures = exchange.import_completions(store, rows, overlap=5)
    assert figures == {"read": 3, "completions": 4, "tasks": 2}
    assert [(len(t.completion_ids), t.overlap) for t in store.tasks()] == [(2, 5), (2, 5)]
    scores = toxicity_scores(store, ["p-0", "p-1"])
    assert scores["p-0"] < 0.5 < scores["p-1"]


def test_a_prompt_that_comes_with_its_completions_keeps_all_that_is_said_of_it(store):
    """Its category and reference answers were dropped, so evaluations could not report them."""
    row = {
        "prompt": "Bye",
        "prompt_id": "b",
        "split": "held-out",
        "category": "c",
        "reference": "x",
    }
    exchange.import_completions(store, [{**row, "completions": ["See you.", "Go."]}], overlap=1)
    assert store.prompt("b") == Prompt("b", "Bye", "held-out", "c", ("x",))


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ([], InputError, "no rows"),
        ([{"prompt_id": "p", "text": "one"}], InputError, "1 completions"),
        ([{"prompt": "x", "completions": ["a"] * 10}], InputError, "10 completions"),
        ([{"prompt": "x", "completions": "ab"}], InputError, "Row 1: 'completions'"),
        ([{"prompt_id": "q", "text": t} for t in "ab"], StoreError, "'q'"),
        ([{"prompt_id": "p", "text": t, "completion_id": "c"} for t in "ab"], InputError, "twice"),
        ([{"prompt_id": "p", "text": t, "completion_id": f"old-{t}"} for t in "ab"], StoreError, "already"),
        ([{"prompt_id": "p"}], InputError, "Row 1: the key 'text'"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_refused_whole(store, rows, error, says):
    store.add_prompts([Prompt("p", "Hi")])
    store.add_tasks([Completion(f"old-{t}", "p", t) for t in "ab"], 1)
    before = store.counts()
    with pytest.raises(error, match=says):
        exchange.import_completions(store, rows, 3)
    assert store.counts() == before


def test_rows_of_a_data_set_are_fetched_by_another_process(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text(
        "".join(f'{{"question": "What is {i}?"}}\n' for i in range(5))
    )
    rows = exchange.hub_rows(str(folder), "train", 3)
    assert [row["question"] for row in rows] == ["What is 0?", "What is 1?", "What is 2?"]
    assert exchange.renamed(rows, {"prompt": "question"})[0]["prompt"] == "What is 0?"
    with pytest.raises(InputError, match="no column 'ask'"):
        exchange.renamed(rows, {"prompt": "ask"})
    with pytest.raises(InputError, match=r"cannot be had.*JSONL or CSV"):
        exchange.hub_rows("nobody/has-this-data-set", "train", 3)


def test_pairs_go_out_as_trl_reads_them(store, tmp_path):
    with pytest.raises(StoreError, match="concord consensus"):
        exchange.export_rows(store, "pairs")
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "probability": 0.9, "prompt_id": "p"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    runs.save_run(store, Run("consensus-1", "consensus", {}, "finished", folder=str(tmp_path)))
    assert exchange.export_rows(store, "pairs") == [row]
    (trl,) = exchange.export_rows(store, "pairs", only_trl=True)
    assert trl == {"prompt": "Hi", "chosen": "a", "rejected": "b"}


def test_a_new_round_can_close_what_is_open_of_the_one_before(store):
    store.add_prompts([Prompt("p", "Hi"), Prompt("q", "Ho")])
    old = store.add_tasks([Completion(f"{p}-{i}", p, f"{i}") for p in "pq" for i in range(2)], 3)
    fresh = [Completion(f"new-{i}", "p", f"new {i}") for i in range(2)]
    (task,) = labelling.begin_round(store, fresh, 3, close_open_tasks=True)
    still = store.rows("SELECT task_id FROM tasks WHERE closed = 0 ORDER BY rowid")
    assert [row["task_id"] for row in still] == [old[1].task_id, task.task_id]
