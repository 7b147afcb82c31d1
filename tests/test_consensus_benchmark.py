"""The consensus benchmark: paired intervals, held-out people, and parts that are merged into one file."""

import json

import numpy as np
import pytest

from benchmarks import consensus as bench
from benchmarks.consensus_real import HeldOut
from benchmarks.consensus_simulated import paired_interval


def test_a_paired_interval_is_that_of_student():
    mean, low, high = paired_interval([0.9, 0.8, 0.85], [0.8, 0.75, 0.85, 0.1])
    assert mean == pytest.approx(0.05)
    assert (low, high) == pytest.approx(
        (0.05 - 4.3027 * 0.05 / 3**0.5, 0.05 + 4.3027 * 0.05 / 3**0.5), abs=1e-4
    )


def test_held_out_votes_are_scored_and_ties_left_out():
    held_out = HeldOut(3)
    vote = np.array([[1, -1], [0, 1], [1, 1]])
    held_out.add("auto", np.array([[0.8, 0.2], [0.1, 0.9], [0.3, 0.5]]), vote)
    held_out.add("coin", np.full((3, 2), 0.5), vote)
    rows = held_out.rows(draws=200)
    assert rows["auto"]["accuracy"] == pytest.approx((1 + 1 + 1 + 0 + 0.5) / 5)
    assert rows["coin"]["log_loss"] == pytest.approx(np.log(2))
    mean, low, high = rows["auto"]["accuracy beside"]["coin"]
    assert mean == pytest.approx(0.2) and low <= mean <= high
    assert rows["auto"]["accuracy beside"]["auto"] == (0, 0, 0)


def test_parts_are_merged_into_one_file_and_known_tables_left_out(tmp_path, monkeypatch, capsys):
    measured = []

    def table(name):
        def measure():
            measured.append(name)
            return {"turns": 1.0}

        return measure

    monkeypatch.setattr(bench, "tables_of", lambda options: [("convabuse", "", table("c"))])
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"flags": {"recall": 0.97, "flagged careful": 0.0}}))
    bench.main(["--json", str(file)])
    bench.main(["--json", str(file), "--resume"])
    assert measured == ["c"]
    assert json.loads(file.read_text()).keys() == {"flags", "convabuse"}
    assert "reached  flags: recall of bad labelers" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--json"):
        bench.main(["--resume"])
