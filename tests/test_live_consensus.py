"""The consensus that the UI holds: caught up with the store, known orders in force, people and simulation apart."""

from dataclasses import replace

import pytest

from alignment.feedback import consensus as consensus_module
from alignment.feedback import live_consensus as module
from alignment.feedback.agreement_history import agreement_over_time
from alignment.feedback.consensus import fit_consensus
from alignment.feedback.known_orders import KnownOrder, set_known_order, withdraw_known_order
from alignment.feedback.live_consensus import LiveConsensus, disputed, who_said_what
from alignment.feedback.people import Labeler, add_labelers
from alignment.feedback.store import Store, ranking_row
from alignment.records import Completion, Prompt, Ranking
from tests.test_consensus import close, pool


@pytest.fixture
def filled(tmp_path):
    """A store with 40 prompts of 4 completions, and the rankings of a pool of people that may go in."""
    ids, _, labelers, rankings = pool(prompts=40)
    store = Store(tmp_path / "feedback.db", create=True)
    store.add_prompts([Prompt(p, f"Say {p}") for p in ids])
    store.add_tasks([Completion(c, p, f"text {c}") for p, cs in ids.items() for c in cs], 3)
    names = [labeler.labeler_id for labeler in labelers]
    add_labelers(store, [Labeler(name, name, simulated=False) for name in names])
    add_labelers(store, [Labeler("bot", "bot", simulated=True)])
    yield store, [replace(r, simulated=False) for r in rankings]
    store.close()


@pytest.fixture
def full_fits(monkeypatch):
    counted = []

    def counting(*args, **kwargs):
        counted.append(args)
        return fit_consensus(*args, **kwargs)

    monkeypatch.setattr(module, "fit_consensus", counting)
    return counted


def test_nothing_ranked_is_none(filled):
    store, _ = filled
    live = LiveConsensus(store)
    assert live.kinds() == [] and live.current("people") is None


def test_new_rankings_are_updates_and_agree_with_a_full_fit(filled, monkeypatch, full_fits):
    monkeypatch.setattr(consensus_module, "REFIT_ROWS", 0)
    store, rankings = filled
    live = LiveConsensus(store)
    store.add_rankings(rankings[:-9])
    before = live.current("people")
    for ranking in (*rankings[-9:], rankings[0]):  # the last is a repeat
        store.add_rankings([ranking])
        now = live.current("people")
        assert now.version != before.version
        before = now
    assert len(full_fits) == 1
    assert now.consensus.summary.rankings == len(rankings) + 1
    close(now.consensus, fit_consensus(store.rankings("people")), 0.02)
    assert live.current("people") is now, "nothing new, nothing done"


def test_a_superseding_ranking_a_known_order_and_its_withdrawal_are_full_fits(filled, full_fits):
    store, rankings = filled
    live = LiveConsensus(store)
    store.add_rankings(rankings)
    live.current("people")
    first = rankings[0]
    edited = replace(first, ranks=dict(zip(first.ranks, (4, 3, 2, 1), strict=True)))
    with store.writing() as db:
        db.table("rankings").insert(ranking_row(edited, task_id=None, supersedes=1))
    assert live.current("people").consensus.summary.rankings == len(rankings)
    worst_first = {name: 5 - rank for name, rank in first.ranks.items()}
    order = set_known_order(store, KnownOrder(first.prompt_id, worst_first, "adjudication", "eve"))
    now = live.current("people")
    found = now.consensus.prompt(first.prompt_id)
    assert found.settled and found.ranks == worst_first and now.known == [order]
    withdraw_known_order(store, order.order_id, "eve")
    assert not live.current("people").consensus.prompt(first.prompt_id).settled
    assert len(full_fits) == 4
    assert live.current("people").consensus.prompt("nobody ranked this") is None


def test_a_full_fit_is_due_after_many_updates(filled, monkeypatch, full_fits):
    monkeypatch.setattr(module, "FEWEST_UPDATES", 3)
    store, rankings = filled
    live = LiveConsensus(store)
    store.add_rankings(rankings[:-8])
    live.current("people")
    for ranking in rankings[-8:]:
        store.add_rankings([ranking])
        live.current("people")
    assert 1 < len(full_fits) < 5
    store.add_rankings([replace(r, labeler_id="sim-noisy-1") for r in rankings[:30]])
    live.current("people")
    assert full_fits[-1][0] == store.rankings("people"), "many at once are fitted anew"


def test_people_and_simulation_are_kept_apart(filled):
    store, rankings = filled
    store.add_rankings(rankings[:30])
    store.add_rankings([replace(rankings[0], labeler_id="bot", simulated=True)])
    live = LiveConsensus(store)
    assert live.kinds() == ["people", "simulated"]
    assert live.current("people").consensus.summary.rankings == 30
    assert live.current("simulated").consensus.summary.rankings == 1
    said = who_said_what(store, rankings[0].prompt_id, "simulated")
    assert [(row["labeler_id"], row["ranks"]) for row in said] == [("bot", rankings[0].ranks)]


def test_disputes_are_the_contradictions_most_first_and_settled_ones_leave(filled):
    store, rankings = filled
    store.add_rankings(rankings)
    live = LiveConsensus(store)
    found = disputed(live.current("people").consensus, 100)
    every = [p for p in live.current("people").consensus.prompts if p.disagreement_share > 0]
    assert {p.prompt_id for p in found} == {p.prompt_id for p in every}
    shares = [p.disagreement_share for p in found]
    assert (
        shares == sorted(shares, reverse=True)
        and len(disputed(live.current("people").consensus, 3)) == 3
    )
    top = found[0]
    set_known_order(store, KnownOrder(top.prompt_id, top.ranks, "adjudication", "eve"))
    left = disputed(live.current("people").consensus, 100)
    assert top.prompt_id not in {p.prompt_id for p in left} and len(left) == len(found) - 1


def test_history_follows_the_dates_and_sees_agreement_fall():
    """Three labelers agree on the first 24 prompts and click at random on the last 24."""
    _, _, _, early = pool(prompts=24, careful=3, noisy=0, random=0, reversed=0, position_biased=0)
    _, _, _, late = pool(
        prompts=24, seed=1, careful=0, noisy=0, random=3, reversed=0, position_biased=0
    )
    late = [Ranking(f"z{r.prompt_id}", f"sim-careful-{r.labeler_id[-1]}", r.ranks) for r in late]
    consensus = fit_consensus([*early, *late])
    moments = {r.prompt_id: f"2026-01-{1 + n // 3:02d}" for n, r in enumerate(early)}
    moments |= {r.prompt_id: f"2026-02-{1 + n // 3:02d}" for n, r in enumerate(late)}
    batches = agreement_over_time(consensus, moments)
    assert len(batches) == 6 and sum(b.prompts for b in batches) == 48
    assert [b.first for b in batches] == sorted(b.first for b in batches)
    assert min(b.alpha for b in batches[:3]) > 0.5 > 0.3 > max(b.alpha for b in batches[3:])
    assert all(b.alpha_low <= b.alpha <= b.alpha_high for b in batches)
    assert batches[0].with_consensus > 0.9 and batches[0].rankings == 24
    assert agreement_over_time(consensus, {}) == []
    assert agreement_over_time(replace(consensus, workings=None), moments) == []


def test_an_excluded_labeler_no_longer_counts(filled):
    store, rankings = filled
    store.add_rankings(rankings)
    live = LiveConsensus(store)
    before = live.current("people").consensus.summary
    with store.writing() as db:
        db.execute("UPDATE labelers SET excluded = 1 WHERE labeler_id = 'sim-random-1'")
    after = live.current("people").consensus.summary
    assert after.labelers == before.labelers - 1 and after.rankings < before.rankings
    assert after.rankings == len(store.rankings("people"))
