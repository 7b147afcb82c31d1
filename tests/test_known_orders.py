"""Gold and adjudicated orders: append-only, superseded, withdrawn."""

import sqlite3

import pytest

from alignment.errors import InputError, StoreError
from alignment.feedback.known_orders import (
    KnownOrder,
    known_orders,
    set_known_order,
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
