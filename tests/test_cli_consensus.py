"""How the labelers read in a terminal."""

from alignment.cli_consensus import show_labelers


def test_the_labelers_fit_a_terminal_and_the_flagged_are_told_why(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = {"low": -0.25, "high": 0.5, "count": 23}
    show_labelers(
        [
            row
            | {"labeler_id": "ana", "kind": "careful", "reliability": 0.81, "flagged": False}
            | {"evidence": "Nothing to say."},
            row
            | {"labeler_id": "l[b]", "kind": "position-biased", "reliability": 0.1}
            | {"flagged": True, "evidence": "What is shown first wins."},
        ]
    )
    shown = capsys.readouterr().out
    assert "+0.81  -0.25 to +0.50" in shown and "position-biased (flagged)" in shown
    assert "l[b]: What is shown first wins." in shown and "Nothing to say." not in shown
    assert max(map(len, shown.splitlines())) <= 80
