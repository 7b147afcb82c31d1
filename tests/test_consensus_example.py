"""The worked example of the documentation stays what the code says."""

from pathlib import Path

from benchmarks.consensus_example import draw, tables

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "consensus.md"


def test_the_page_shows_the_tables_that_the_code_makes():
    page = PAGE.read_text(encoding="utf-8")
    for table in tables().strip().split("\n\n"):
        assert table in page


def test_the_figure_is_drawn_the_same_every_time(tmp_path):
    draw(tmp_path / "one.svg")
    draw(tmp_path / "two.svg")
    drawn = (tmp_path / "one.svg").read_bytes()
    assert b"<svg" in drawn
    assert drawn == (tmp_path / "two.svg").read_bytes()
