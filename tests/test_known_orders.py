"""Gold and adjudicated orders: append-only, superseded, withdrawn."""

import sqlite3

import pytest

from alignment.errors import InputError, StoreError
from alignment.feedback.known_orders import (
    KnownOrder,
    by_prompt,
    in_force,
    known_orders,
    set_known_order,
    set_known_orders,
    withdraw_adjudications,
    withdraw_known_order,
)
from alignment.feedback.people import Labeler, add_labelers
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt, Ranking


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "feedback.db", create=True)
    opened.add_prompts([Prompt("p", "Say something.")])
    opened.add_tasks([Completion(name, "p", f"text {name}") for name in "abcd"], 3)
    yield opened
    opened.close()


def order(ranks, source="gold"):
    return KnownOrder("p", ranks, source, "eve", "clear")


def test_a_later_order_of_the_same_completions_supersedes_and_others_stand_beside(store):
    first = set_known_order(store, order({"a": 1, "b": 2}))
    beside = set_known_order(store, order({"c": 1, "d": 2}, "adjudication"))
    second = set_known_order(store, order({"a": 2, "b": 1}, "adjudication"))
    assert first.order_id is not None
    assert known_orders(store) == [beside, second]
    assert known_orders(store, "gold") == []


def test_a_withdrawn_order_no_longer_stands_and_nothing_is_deleted(store):
    set_known_order(store, order({"a": 1, "b": 1}))
    withdraw_known_order(store, known_orders(store)[0].order_id, "eve", "wrong")
    assert known_orders(store) == []
    assert len(store.rows("SELECT * FROM known_orders")) == 2
    with pytest.raises(StoreError, match="stands"):
        withdraw_known_order(store, 1, "eve")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.db.execute("DELETE FROM known_orders")


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (order({"a": 1, "x": 2}), StoreError, "'x'"),
        (order({"a": 1}), InputError, "2 to 9"),
        (order({"a": 0, "b": 1}), InputError, "from 1"),
        (order({"a": 1, "b": 2}, "guess"), InputError, "guess"),
    ],
)
def test_what_is_no_order_of_the_prompt_is_refused(store, wrong, error, says):
    with pytest.raises(error, match=says):
        set_known_order(store, wrong)
    assert known_orders(store) == []


def test_a_ranking_keeps_that_nothing_was_acceptable(store):
    add_labelers(store, [Labeler("ann", "Ann", simulated=False)])
    plain = Ranking("p", "ann", {"a": 1, "b": 2})
    refused = Ranking("p", "ann", {"c": 1, "d": 1}, none_acceptable=True)
    store.add_rankings([plain, refused])
    assert store.rankings() == [plain, refused]
    assert [Ranking.from_json(r.to_json()) for r in (plain, refused)] == [plain, refused]


def test_gold_that_an_adjudication_overruled_stands_again_when_it_is_withdrawn(store):
    gold = set_known_order(store, order({"a": 1, "b": 2}))
    for ranks in ({"a": 2, "b": 1}, {"a": 1, "b": 1}):
        set_known_order(store, order(ranks, "adjudication"))
    assert withdraw_adjudications(store, "p", "eve", "on second thoughts") == 1
    (again,) = known_orders(store)
    assert (again.ranks, again.source, again.set_by) == (gold.ranks, "gold", gold.set_by)
    withdraw_known_order(store, again.order_id, "eve")
    assert known_orders(store) == []
    with pytest.raises(StoreError, match="No adjudication of prompt 'p'"):
        withdraw_adjudications(store, "p", "eve")


def test_many_orders_are_stored_whole_or_not_at_all(store):
    with pytest.raises(StoreError, match="'x'"):
        set_known_orders(store, [order({"a": 1, "b": 2}), order({"a": 1, "x": 2})])
    assert known_orders(store) == []


def test_where_orders_contradict_each_other_the_last_word_counts(store):
    first = set_known_order(store, order({"a": 1, "b": 2, "c": 3}))
    beside = set_known_order(store, order({"c": 1, "d": 2}))
    assert in_force(known_orders(store)) == [first, beside]
    later = set_known_order(store, order({"b": 1, "a": 2}, "adjudication"))
    assert in_force(known_orders(store)) == [beside, later]
    standing = in_force(known_orders(store))
    assert by_prompt(standing, "gold") == {"p": [{"c": 1, "d": 2}]}
    assert by_prompt(standing, "adjudication") == {"p": [{"b": 1, "a": 2}]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "prompt_id"),
        ({"ranks": {"a": 1, "b": 2}}, "prompt_id"),
        ({"prompt_id": "p", "ranks": [1, 2]}, "ranks"),
        ({"prompt_id": "p", "ranks": {"a": 1}}, "2 to 9"),
        ({"prompt_id": "p", "ranks": {"a": 1, "b": 2}, "comment": 7}, "comment"),
    ],
)
def test_a_line_that_is_no_known_order_is_refused(row, says):
    with pytest.raises(InputError, match=says):
        KnownOrder.from_json(row)
