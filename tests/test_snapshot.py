"""The snapshot of the rankings that a run learns from."""

import pytest

from alignment.errors import InputError
from alignment.feedback import snapshot
from alignment.records import Ranking


def ranking(prompt, labeler, order, simulated=False):
    return Ranking(prompt, labeler, {c: r for r, c in enumerate(order, 1)}, simulated=simulated)


def test_figures_by_hand():
    same = [ranking("p", "ann", "abc"), ranking("p", "bob", "abc"), ranking("q", "ann", "de")]
    found = snapshot.figures(same)
    assert found == {
        "prompts": 2,
        "rankings": 3,
        "labelers": 2,
        "pairs": 3 + 1,
        "krippendorff_alpha": 1.0,
        "pairwise_agreement": 1.0,
    }
    alone = snapshot.figures(same[:1])
    assert alone["krippendorff_alpha"] is None and alone["pairwise_agreement"] is None
    assert snapshot.figures([]) is None


def test_people_and_simulated_labelers_are_told_apart():
    both = [ranking("p", "ann", "ab"), ranking("p", "sim-1", "ab", simulated=True)]
    assert [r.labeler_id for r in snapshot.counting(both, "people")] == ["ann"]
    assert [r.labeler_id for r in snapshot.counting(both, "simulated")] == ["sim-1"]
    assert len(snapshot.counting(both, "all")) == 2
    with pytest.raises(InputError, match="not mixed silently"):
        snapshot.counting(both, "auto")
    with pytest.raises(InputError, match="no rankings"):
        snapshot.counting(both[:1], "simulated")
