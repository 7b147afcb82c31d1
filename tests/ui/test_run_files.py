"""Folders of runs, and times in words."""

from datetime import UTC, datetime

import pytest

from alignment.errors import StoreError
from ui.run_files import run_folder
from ui.times import ago


@pytest.mark.parametrize("run_id", ["..", "../x", "a/b", "/etc", "."])
def test_a_run_id_never_leads_out_of_the_runs(tmp_path, run_id):
    with pytest.raises(StoreError):
        run_folder(tmp_path, run_id)


def test_run_folder_is_where_the_run_lies(tmp_path):
    assert run_folder(tmp_path, "ppo-1") == tmp_path / "runs" / "ppo-1"


def test_times_are_said_as_people_say_them():
    now = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
    assert ago("2026-01-02T11:59:30+00:00", now) == "just now"
    assert ago("2026-01-02T11:58:30+00:00", now) == "1 minute ago"
    assert ago("2026-01-02T09:00:00", now) == "3 hours ago"
    assert ago("2025-12-30T12:00:00+00:00", now) == "3 days ago"
    assert ago("once upon a time", now) == "once upon a time"
