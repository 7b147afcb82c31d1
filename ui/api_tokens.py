"""An account's own keys: its API tokens, and signing out everywhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel, Field

from alignment.feedback import credentials, people
from alignment.feedback.store import Store
from ui.api_models import Body, Nothing
from ui.callers import CSRF, Caller

TokenId = Annotated[int, Path(ge=1, le=2**53)]


class NewToken(Body):
    """What a token is for, and how long it lasts."""

    name: Annotated[str, Field(min_length=1, max_length=credentials.MAX_TOKEN_NAME, pattern=r"\S")]
    days: Annotated[int, Field(ge=1, le=credentials.MAX_TOKEN_DAYS)] = 90


class CreatedToken(BaseModel):
    """The only time that the token itself is shown."""

    token_id: int
    token: str


class ShownToken(BaseModel):
    token_id: int
    name: str
    created: str
    expires: str
    last_used: str | None


def token_routes(store: Store) -> APIRouter:
    """`/tokens` and `/sign-out-everywhere`."""
    router = APIRouter(tags=["account"])

    @router.get("/tokens")
    def tokens(who: Caller) -> list[ShownToken]:
        """The caller's tokens, without their secrets."""
        return [ShownToken(**row) for row in credentials.tokens(store, who.account_id)]

    @router.post("/tokens", dependencies=[CSRF])
    def create(body: NewToken, who: Caller, request: Request) -> CreatedToken:
        """Make a token, which acts in the caller's name. Only a signed-in person can, not another token."""
        if request.state.api_token is not None:
            raise HTTPException(403, "A token cannot make tokens. Sign in to make one.")
        token_id, token = credentials.create_token(store, who.account_id, body.name, body.days)
        return CreatedToken(token_id=token_id, token=token)

    @router.delete("/tokens/{token_id}", dependencies=[CSRF])
    def revoke(token_id: TokenId, who: Caller) -> Nothing:
        """End a token."""
        credentials.revoke_token(store, who.account_id, token_id)
        return Nothing()

    @router.post("/sign-out-everywhere", dependencies=[CSRF])
    def sign_out_everywhere(who: Caller) -> Nothing:
        """End all of the caller's sessions, this one included. Tokens stay: they are revoked one by one."""
        people.sign_out_everywhere(store, who.account_id)
        return Nothing()

    return router
