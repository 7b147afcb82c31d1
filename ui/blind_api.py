"""Blind comparison under `/api/blind`: what the page's script calls, and what a program may call with the same cookie.

Nothing that is sent says which model wrote a text.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from alignment.feedback import blind
from alignment.feedback.store import Store
from ui.api_models import Body
from ui.callers import CSRF, Caller


class ShownPair(BaseModel):
    """Two completions of a prompt; `number` of `total` counts from 1."""

    round: str
    pair: str
    prompt: str
    left: str
    right: str
    number: int
    total: int


class NextPair(BaseModel):
    """The caller's next pair, or null when every pair of every round is answered."""

    pair: ShownPair | None


class Choice(Body):
    """Which side is better: `left`, `right` or `tie`. `seconds`: time from showing to answering."""

    round: Annotated[str, Field(max_length=80)]
    pair: Annotated[str, Field(max_length=400)]
    choice: Annotated[str, Field(max_length=10)]
    seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None


def blind_routes(store: Store) -> APIRouter:
    """The routes below `/api/blind`, open to everybody who is signed in."""
    router = APIRouter(prefix="/api/blind", tags=["blind comparison"])

    def upcoming(judge: str) -> NextPair:
        shown = blind.next_pair(store, judge)
        if shown is None:
            return NextPair(pair=None)
        return NextPair(
            pair=ShownPair(
                round=shown.round_id,
                pair=shown.prompt_id,
                prompt=shown.prompt,
                left=shown.left,
                right=shown.right,
                number=shown.number,
                total=shown.total,
            )
        )

    @router.post("/next", dependencies=[CSRF])
    def next_pair(who: Caller) -> NextPair:
        """The caller's next pair; the same one until it is answered."""
        return upcoming(who.account_id)

    @router.post("/answers", dependencies=[CSRF])
    def answer(chosen: Choice, who: Caller) -> NextPair:
        """Store the answer and return the next pair. Sending the same again is one answer."""
        blind.answer(
            store, who.account_id, chosen.round, chosen.pair, chosen.choice, chosen.seconds
        )
        return upcoming(who.account_id)

    return router
