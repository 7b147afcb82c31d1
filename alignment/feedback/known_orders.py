"""Orders that are known to be true: gold, set before anybody ranks, and adjudications, by which an expert settles a
disputed prompt. They anchor the consensus and check labelers; they are kept as such and are nobody's vote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from alignment.errors import InputError, StoreError
from alignment.feedback.settlement import contradictory
from alignment.feedback.store import Store, now
from alignment.records import check_ranks

SOURCES = ("gold", "adjudication")


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """The true order of some completions of a prompt. `ranks`: completion id -> rank, 1 is best, equal ranks are ties.

    `set_by`: the account that says so. `order_id` and `created` are given by the store.
    """

    prompt_id: str
    ranks: dict[str, int]
    source: str
    set_by: str
    comment: str = ""
    task_id: str | None = None
    order_id: int | None = None
    created: str | None = None

    @classmethod
    def from_json(cls, row: Any) -> KnownOrder:
        """A gold order from a parsed line `{"prompt_id", "ranks", "comment"?}`; `set_by` is left for the caller."""
        if not isinstance(row, dict) or not isinstance(row.get("prompt_id"), str | int):
            raise InputError('expected an object with "prompt_id" and "ranks".')
        if not isinstance(row.get("ranks"), dict):
            raise InputError('"ranks" must give the rank of each completion id, 1 is best.')
        comment = row.get("comment") or ""
        if not isinstance(comment, str):
            raise InputError('"comment" must be a text.')
        return cls(str(row["prompt_id"]), check_ranks(row["ranks"]), "gold", "", comment)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def set_known_order(store: Store, order: KnownOrder) -> KnownOrder:
    """Append the order and return it as stored; it supersedes the standing one of the same completions.

    Raises `InputError` on an unknown source or ranks that are no ranking, `StoreError` on completions that the prompt
    does not have.
    """
    return set_known_orders(store, [order])[0]


def set_known_orders(store: Store, orders: Iterable[KnownOrder]) -> list[KnownOrder]:
    """Append all of the orders, or none where one of them is refused; see `set_known_order`."""
    with store.writing():
        return [_set(store, order) for order in orders]


def _set(store: Store, order: KnownOrder) -> KnownOrder:
    if order.source not in SOURCES:
        raise InputError(
            f"The source {order.source!r} is not known; choose one of {', '.join(SOURCES)}."
        )
    check_ranks(order.ranks)
    rows = store.db.query(
        "SELECT completion_id FROM completions WHERE prompt_id = ?", [order.prompt_id]
    )
    unknown = order.ranks.keys() - {row["completion_id"] for row in rows}
    if unknown:
        raise StoreError(
            f"The known order names the completion {min(unknown)!r}, which is not one of prompt "
            f"{order.prompt_id!r}. Import the completions first, or correct the order."
        )
    standing = [
        row["order_id"]
        for row in store.db.query(
            "SELECT * FROM standing_known_orders WHERE prompt_id = ?", [order.prompt_id]
        )
        if json.loads(row["ranks"]).keys() == order.ranks.keys()
    ]
    return _insert(store, order, json.dumps(order.ranks), next(iter(standing), None))


def withdraw_known_order(store: Store, order_id: int, by: str, comment: str = "") -> None:
    """Take a standing order back; it stays in the history. Gold that an adjudication had overruled stands again.

    Raises `StoreError` where no order of that id stands.
    """
    with store.writing():
        _withdraw(store, order_id, by, comment)


def withdraw_adjudications(store: Store, prompt_id: str, by: str, comment: str = "") -> int:
    """Take all standing adjudications of a prompt back; returns how many. `StoreError` where there are none."""
    with store.writing() as db:
        rows = list(
            db.query(
                "SELECT order_id FROM standing_known_orders WHERE prompt_id = ? AND source = 'adjudication'",
                [prompt_id],
            )
        )
        if not rows:
            raise StoreError(f"No adjudication of prompt {prompt_id!r} stands.")
        for row in rows:
            _withdraw(store, row["order_id"], by, comment)
    return len(rows)


def _withdraw(store: Store, order_id: int, by: str, comment: str) -> None:
    found = list(
        store.db.query("SELECT * FROM standing_known_orders WHERE order_id = ?", [order_id])
    )
    if not found:
        raise StoreError(f"No known order {order_id} stands. Reload; it may be withdrawn already.")
    _insert(store, replace(_known_order(found[0]), set_by=by, comment=comment), None, order_id)
    overruled = _overruled_gold(store, found[0])
    if found[0]["source"] == "adjudication" and overruled is not None:
        _insert(store, overruled, json.dumps(overruled.ranks), None)


def _overruled_gold(store: Store, row: dict[str, Any]) -> KnownOrder | None:
    """The gold order that stood before the adjudications of the same completions, of which `row` is the last."""
    while row["source"] == "adjudication" and row["supersedes"] is not None:
        [row] = store.rows("SELECT * FROM known_orders WHERE order_id = ?", [row["supersedes"]])
    return _known_order(row) if row["source"] == "gold" and row["ranks"] else None


def known_orders(store: Store, source: str | None = None) -> list[KnownOrder]:
    """The standing orders, oldest first: all, or those of one source."""
    where, params = ("WHERE source = ?", [source]) if source else ("", [])
    rows = store.rows(f"SELECT * FROM standing_known_orders {where} ORDER BY order_id", params)
    return [_known_order(row) for row in rows]


def in_force(orders: Sequence[KnownOrder]) -> list[KnownOrder]:
    """`orders`, oldest first, without those that a later one of the same prompt contradicts: the last word counts."""
    kept: dict[str, list[KnownOrder]] = {}
    for order in reversed(orders):
        later = kept.setdefault(order.prompt_id, [])
        if not contradictory([order.ranks, *(o.ranks for o in later)]):
            later.append(order)
    chosen = {id(order) for later in kept.values() for order in later}
    return [order for order in orders if id(order) in chosen]


def by_prompt(orders: Iterable[KnownOrder], source: str) -> dict[str, list[dict[str, int]]]:
    """Prompt id -> its known orders of one source, as `fit_consensus` takes them."""
    found: dict[str, list[dict[str, int]]] = {}
    for order in orders:
        if order.source == source:
            found.setdefault(order.prompt_id, []).append(order.ranks)
    return found


def _insert(
    store: Store, order: KnownOrder, ranks: str | None, supersedes: int | None
) -> KnownOrder:
    row: dict[str, Any] = {
        "prompt_id": order.prompt_id,
        "task_id": order.task_id,
        "ranks": ranks,
        "source": order.source,
        "set_by": order.set_by,
        "comment": order.comment,
        "supersedes": supersedes,
        "created": now(),
    }
    store.db.table("known_orders").insert(row)
    order_id = store.db.execute("SELECT last_insert_rowid()").fetchone()[0]
    return replace(order, order_id=order_id, created=row["created"])


def _known_order(row: dict[str, Any]) -> KnownOrder:
    return KnownOrder(
        row["prompt_id"],
        json.loads(row["ranks"]),
        row["source"],
        row["set_by"],
        row["comment"] or "",
        row["task_id"],
        row["order_id"],
        row["created"],
    )
