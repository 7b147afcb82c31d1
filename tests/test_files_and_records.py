import errno
import json
import os

import pytest

from alignment.errors import InputError
from alignment.files import read_jsonl, whole_folder, write_json, write_jsonl, write_text
from alignment.records import Completion, PreferencePair, Prompt, Ranking, Votes


def lines(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def test_a_malformed_line_is_named(tmp_path):
    path = lines(tmp_path, {"prompt": "a"}, "", '{"prompt": ')
    with pytest.raises(InputError, match=r"rows\.jsonl, line 3: not valid JSON"):
        read_jsonl(path, Prompt.from_json)


def test_a_line_separator_inside_a_text_does_not_shift_the_count(tmp_path):
    path = lines(tmp_path, json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False), {"nothing": 1})
    with pytest.raises(InputError, match=r"line 2: the key 'prompt' is missing"):
        read_jsonl(path, Prompt.from_json)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="is empty"):
        read_jsonl(path, Prompt.from_json)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_jsonl(tmp_path / "none.jsonl", Prompt.from_json)
    with pytest.raises(InputError, match="folder"):
        read_jsonl(tmp_path, Prompt.from_json)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "hello"}\r\n')
    assert [p.prompt for p in read_jsonl(path, Prompt.from_json)] == ["hello"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "half \\ud800"}', "half of a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": ' + "9" * 5000 + "}", "line 1: a number has more than 4,000 digits"),
    ],
)
def test_what_json_can_say_and_no_file_can_hold_is_refused(tmp_path, line, reason):
    with pytest.raises(InputError, match=reason):
        read_jsonl(lines(tmp_path, line), Prompt.from_json)
    with pytest.raises(InputError, match="does not exist"):
        read_jsonl(lines(tmp_path, line) / "x", Prompt.from_json)


@pytest.mark.parametrize("votes", [{"chosen": None}, {"chosen": "many"}, {"tie": -1}])
def test_votes_are_whole_numbers(votes):
    with pytest.raises(InputError, match="'votes' must hold whole numbers"):
        PreferencePair.from_json({"prompt": "p", "chosen": "a", "rejected": "b", "votes": votes})


def test_a_misspelt_key_gets_a_hint():
    with pytest.raises(InputError, match="did you mean 'promt'"):
        Prompt.from_json({"promt": "hello"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "  "}, "empty"),
        ({"prompt": []}, "empty"),
        ({"prompt": [{"role": "user"}]}, "content"),
        ({"prompt": "a", "split": "test"}, "train, held-out"),
        ({"prompt": 3}, "wrong type"),
        ([1], "JSON object"),
    ],
)
def test_bad_prompts_say_why(row, reason):
    with pytest.raises(InputError, match=reason):
        Prompt.from_json(row)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ranks": {"a": 1}}, "2 to 9"),
        ({"ranks": {"a": 1, "b": 0}}, "whole numbers from 1"),
        ({"ranks": {"a": 1, "b": True}}, "whole numbers from 1"),
        ({"ranks": {"a": 1, "b": 1.5}}, "whole numbers from 1"),
        ({"positions": {"a": 0, "b": 0}}, "same place"),
        ({"positions": {"a": 0}}, "lacks the ranked completion 'b'"),
        ({"seconds": -1}, "time"),
        ({"labeler_id": None}, "labeler_id"),
    ],
)
def test_bad_rankings_say_why(change, reason):
    row = {"prompt_id": "p", "labeler_id": "l", "ranks": {"a": 1, "b": 1}}
    with pytest.raises(InputError, match=reason):
        Ranking.from_json({**row, **change})


def test_records_come_back_from_json_as_they_were():
    ranking = Ranking("p", "l", {"a": 1, "b": 2}, {"a": 1, "b": 0}, 3.5, simulated=True)
    completion = Completion("c", "p", "text", False, 3, "run")
    pair = PreferencePair("ask", "yes", "no", 0.8, 0.9, "p", "a", "b", Votes(2, 1, 0))
    chat = PreferencePair([{"role": "user", "content": "hi"}], "yes", "no", 0.8, 0.9, "p", "a", "b")
    for record in (ranking, completion, pair, chat):
        assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_equal_texts_are_no_pair():
    with pytest.raises(InputError, match="same text"):
        PreferencePair.from_json({"prompt": "a", "chosen": "x", "rejected": "x"})


def test_pairs_load_as_a_dataset_that_trl_accepts(tmp_path):
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    pairs = [
        PreferencePair("ask", "yes", "no", 0.8, 0.9, "p", f"a{i}", "b", Votes(2, 1, 0))
        for i in range(3)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", [p.to_json() for p in pairs])
    loaded = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert {"prompt", "chosen", "rejected", "probability", "confidence", "votes"} <= set(
        loaded.column_names
    )
    assert not is_conversational(loaded[0])
    assert [PreferencePair.from_json(row) for row in loaded] == pairs


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [{"a": 1}])
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_jsonl(path, [{"a": 2}])
    assert path.read_text() == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_saving_a_model_leaves_no_part_of_it(tmp_path):
    with (
        pytest.raises(InputError, match="No space left"),
        whole_folder(tmp_path / "model") as scratch,
    ):
        (scratch / "adapter.safetensors").write_text("first part")
        full_disk()
    assert list((tmp_path / "model").iterdir()) == []


def test_a_whole_folder_arrives_whole(tmp_path):
    with whole_folder(tmp_path / "model") as scratch:
        (scratch / "a").write_text("1")
        assert not (tmp_path / "model" / "a").exists()
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["a"]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_path_through_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="Cannot write"):
        write_text(tmp_path / "file" / "below.txt", "y")
