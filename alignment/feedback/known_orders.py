"""Orders that are known to be true: gold, set before anybody ranks, and adjudications, by which an expert settles a
disputed prompt. They anchor the consensus and check labelers; they are kept as such and are nobody's vote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from alignment.errors import InputError, StoreError
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


def set_known_order(store: Store, order: KnownOrder) -> KnownOrder:
    """Append the order and return it as stored; it supersedes the standing one of the same completions.

    Raises `InputError` on an unknown source or ranks that are no ranking, `StoreError` on completions that the prompt
    does not have.
    """
    if order.source not in SOURCES:
        raise InputError(
            f"The source {order.source!r} is not known; choose one of {', '.join(SOURCES)}."
        )
    check_ranks(order.ranks)
    with store.writing() as db:
        known = {
            row["completion_id"]
            for row in db.query(
                "SELECT completion_id FROM completions WHERE prompt_id = ?", [order.prompt_id]
            )
        }
        for completion_id in order.ranks:
            if completion_id not in known:
                raise StoreError(
                    f"The known order names the completion {completion_id!r}, which is not one of prompt "
                    f"{order.prompt_id!r}. Import the completions first, or correct the order."
                )
        standing = [
            row["order_id"]
            for row in db.query(
                "SELECT * FROM standing_known_orders WHERE prompt_id = ?", [order.prompt_id]
            )
            if json.loads(row["ranks"]).keys() == order.ranks.keys()
        ]
        return _insert(store, order, json.dumps(order.ranks), next(iter(standing), None))


def withdraw_known_order(store: Store, order_id: int, by: str, comment: str = "") -> None:
    """Take a standing order back; it stays in the history. Raises `StoreError` where none of that id stands."""
    with store.writing() as db:
        found = list(db.query("SELECT * FROM standing_known_orders WHERE order_id = ?", [order_id]))
        if not found:
            raise StoreError(
                f"No known order {order_id} stands. Reload; it may be withdrawn already."
            )
        order = _known_order(found[0])
        withdrawn = KnownOrder(
            order.prompt_id, order.ranks, order.source, by, comment, order.task_id
        )
        _insert(store, withdrawn, None, order_id)


def known_orders(store: Store, source: str | None = None) -> list[KnownOrder]:
    """The standing orders, oldest first: all, or those of one source."""
    where, params = ("WHERE source = ?", [source]) if source else ("", [])
    rows = store.rows(f"SELECT * FROM standing_known_orders {where} ORDER BY order_id", params)
    return [_known_order(row) for row in rows]


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
    return KnownOrder(
        order.prompt_id,
        order.ranks,
        order.source,
        order.set_by,
        order.comment,
        order.task_id,
        order_id,
        row["created"],
    )


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
