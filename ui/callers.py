"""Who calls an API route, and what each route demands of them. The guard has looked already; routes look again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Header, HTTPException, Request

from alignment.feedback.people import Account
from ui.sessions import same


def caller(request: Request) -> Account:
    """The account behind the request."""
    if request.state.account is None:
        raise HTTPException(401, "You are not signed in. Sign in, then try again.")
    return request.state.account


def check_csrf(request: Request, x_csrf_token: Annotated[str | None, Header()] = None) -> None:
    """Refuse a state change by session cookie without the session's token. API tokens need none: no browser sends them
    along by itself."""
    if getattr(request.state, "api_token", None) is not None:
        return
    session = request.state.session
    if session is None or not same(session.csrf, x_csrf_token):
        raise HTTPException(
            403, "The X-CSRF-Token header is missing or stale. Take it from /api/me."
        )


def one_of(roles: frozenset[str]) -> Callable[[Request], Awaitable[Account]]:
    """A dependency: the calling account, if it has one of `roles`. It waits for nothing, so it needs no thread."""

    async def check(request: Request) -> Account:
        who = caller(request)
        if who.role not in roles:
            raise HTTPException(403, f"The role {who.role} may not do this.")
        return who

    return check


Caller = Annotated[Account, Depends(caller)]
CSRF = Depends(check_csrf)
