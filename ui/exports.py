"""`/exports/<what>`: the labelling data as JSON lines, for engineers.

Labelling data leaves the machine only when somebody asks for it. The guard lets engineers and admins in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from alignment.errors import InputError
from alignment.feedback import audit
from alignment.feedback.known_orders import known_orders
from alignment.feedback.live_consensus import Live, LiveConsensus
from alignment.feedback.pairs import preference_pairs
from alignment.feedback.store import Store

What = Literal["rankings", "pairs", "labelers", "prompts", "known-orders"]
WHAT: tuple[What, ...] = ("rankings", "pairs", "labelers", "prompts", "known-orders")


def export_routes(store: Store, live: LiveConsensus) -> APIRouter:
    """The route of the exports."""
    router = APIRouter(include_in_schema=False)

    @router.get("/exports/{what}")
    def export(
        what: What, request: Request, labelers: Literal["people", "simulated"] = "people"
    ) -> Response:
        """`what` of the rankings of `labelers`; an error in a sentence where there are none."""
        lines = "".join(
            json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
            for row in rows_of(what, labelers, store, live)
        )
        audit.record(store, request.state.account.account_id, f"export {what}", of=labelers)
        name = f"{what}.jsonl" if labelers == "people" else f"{what}-{labelers}.jsonl"
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
        }
        return Response(lines, media_type="application/jsonl", headers=headers)

    return router


def rows_of(what: What, kind: str, store: Store, live: LiveConsensus) -> Iterable[dict[str, Any]]:
    """The rows of an export. Raises `InputError` where there is nothing to make them from."""
    if what == "known-orders":
        return (order.to_json() for order in known_orders(store))
    if what == "rankings":
        return (ranking.to_json() for ranking in store.rankings(kind))
    now = live.current(kind)
    if now is None:
        raise InputError(f"There are no rankings of {kind} yet, so there are no {what}.")
    return {"pairs": _pairs, "labelers": _labelers, "prompts": _prompts}[what](now, store)


def _pairs(now: Live, store: Store) -> Iterable[dict[str, Any]]:
    prompts = {prompt.prompt_id: prompt.prompt for prompt in store.prompts()}
    texts = {c.completion_id: c.text for c in store.completions().values()}
    return (pair.to_json() for pair in preference_pairs(now.consensus, prompts, texts))


def _labelers(now: Live, _: Store) -> Iterable[dict[str, Any]]:
    return (row.to_json() for row in now.consensus.labelers)


def _prompts(now: Live, _: Store) -> Iterable[dict[str, Any]]:
    return (row.to_json() for row in now.consensus.prompts)
