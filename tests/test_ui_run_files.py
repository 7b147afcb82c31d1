from datetime import UTC, datetime

import pytest

from alignment.errors import InputError, StoreError
from ui.run_files import curves, flatten, read_list, read_metrics, run_folder
from ui.times import ago, elapsed


def test_a_line_still_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(
        '{"step": 1, "loss": 2.0}\nnot json\n[1]\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo'
    )
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_curves_put_ppo_first_and_leave_out_what_is_no_number():
    rows = [
        {"iteration": 0, "my_metric": 5, "reward": 1.0, "kl": None, "note": "x", "done": True},
        {"iteration": 3, "my_metric": 6, "reward": 2.0, "eval_reward": 1.5, "kl": float("nan")},
    ]
    assert curves(rows) == [
        (
            "Reward",
            [
                {"step": 0, "value": 1.0, "series": "reward"},
                {"step": 3, "value": 2.0, "series": "reward"},
                {"step": 3, "value": 1.5, "series": "eval reward"},
            ],
        ),
        (
            "my metric",
            [
                {"step": 0, "value": 5, "series": "my metric"},
                {"step": 3, "value": 6, "series": "my metric"},
            ],
        ),
    ]


def test_steps_are_counted_where_rows_have_none():
    assert [point["step"] for point in curves([{"loss": 1.0}, {"loss": 2.0}])[0][1]] == [0, 1]


@pytest.mark.parametrize("run_id", ["..", "../x", "a/b", "/etc", "."])
def test_a_run_id_never_leads_out_of_the_runs(tmp_path, run_id):
    with pytest.raises(StoreError):
        run_folder(tmp_path, run_id)


def test_run_folder_is_where_the_run_lies(tmp_path):
    assert run_folder(tmp_path, "ppo-1") == tmp_path / "runs" / "ppo-1"


def test_a_list_that_is_none_is_refused(tmp_path):
    path = tmp_path / "labelers.json"
    assert read_list(path) == []
    path.write_text('{"a": 1}')
    with pytest.raises(InputError, match="list of JSON objects"):
        read_list(path)


def test_configurations_are_flattened_and_readable():
    tree = {
        "a": {"b": 0.00015, "c": True},
        "d": None,
        "e": [1, "x"],
        "f": {},
        "g": list(range(1, 11)),
        "h": [],
        "i": [{"j": 1}],
    }
    assert flatten(tree) == [
        ("a.b", "0.00015"),
        ("a.c", "yes"),
        ("d", "–"),
        ("e", "1, x"),
        ("f", "{}"),
        ("g", "1, 2, 3, 4, 5, 6, 7, 8 and 2 more"),
        ("h", "none"),
        ("i", '[{"j": 1}]'),
    ]


def test_times_are_said_as_people_say_them():
    now = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
    assert ago("2026-01-02T11:59:30+00:00", now) == "just now"
    assert ago("2026-01-02T11:58:30+00:00", now) == "1 minute ago"
    assert ago("2026-01-02T09:00:00", now) == "3 hours ago"
    assert ago("2025-12-30T12:00:00+00:00", now) == "3 days ago"
    assert ago("once upon a time", now) == "once upon a time"
    assert elapsed("2026-01-02T11:00:00+00:00", "2026-01-02T12:05:30+00:00") == "1 h 5 min"
    assert elapsed("2026-01-02T11:00:00+00:00", "2026-01-02T11:01:05+00:00") == "1 min 5 s"
    assert elapsed("2026-01-02T11:00:00+00:00", "2026-01-02T11:00:05+00:00") == "5 s"
