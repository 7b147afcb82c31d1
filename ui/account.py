"""`/account`: one's own password, API tokens and the way out; plain HTML forms, no script needed.

The same for all roles, but for tokens: labelers have none.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from alignment.errors import ConcordError
from alignment.feedback import credentials, lockout, people
from alignment.feedback.store import Store
from ui.api_tokens import TokenId
from ui.guard import EVERYBODY, PATHS, set_session_cookie
from ui.sessions import Sessions, same
from ui.shell import message_page, page
from ui.sign_in import FormDesk, too_many

Token = Annotated[str, Form()]


def account_routes(store: Store, sessions: Sessions, desk: FormDesk) -> APIRouter:
    """The page and its forms."""
    router = APIRouter(prefix="/account", include_in_schema=False)

    @router.get("")
    def show(request: Request) -> Response:
        changed = "changed" in request.query_params
        words = "Your password is changed. You are signed out everywhere else."
        return shown(store, request, done=words if changed else "")

    router.include_router(_password(store, sessions, desk))
    router.include_router(_tokens(store))
    return router


def _password(store: Store, sessions: Sessions, desk: FormDesk) -> APIRouter:
    router = APIRouter()

    @router.post("/password")
    async def change(
        request: Request,
        token: Token = "",
        old: Annotated[str, Form()] = "",
        new: Annotated[str, Form()] = "",
        again: Annotated[str, Form()] = "",
    ) -> Response:
        if wrong := refused(request, token, EVERYBODY):
            return wrong
        name = request.state.account.account_id
        address = request.client.host if request.client else ""
        wait = await run_in_threadpool(lockout.wait, store, name, address)
        if wait > 0:
            return shown(store, request, 429, problem=too_many(wait))
        if new != again:
            return shown(store, request, 422, problem="The two new passwords differ.")
        try:
            who = await desk.hashed(lambda: people.change_password(store, name, old, new))
        except ConcordError as error:
            return shown(store, request, 422, problem=str(error))
        if who is None:
            await run_in_threadpool(lockout.failed, store, name, address)
            return shown(store, request, 403, problem="The present password is not right.")
        response = RedirectResponse("/account?changed", status_code=303)
        value = sessions.issue(name, epoch=who.epoch)
        set_session_cookie(response, sessions, value, secure=request.url.scheme == "https")
        return response

    return router


def _tokens(store: Store) -> APIRouter:
    router = APIRouter()

    @router.post("/tokens")
    def make(
        request: Request,
        token: Token = "",
        name: Annotated[str, Form()] = "",
        days: Annotated[str, Form()] = "",
    ) -> Response:
        if wrong := refused(request, token, PATHS["/api/tokens"]):
            return wrong
        who = request.state.account.account_id
        try:
            lasts = (
                int(days) if days.isdecimal() and len(days) < 5 else 0
            )  # else it says what is wrong
            _, secret = credentials.create_token(store, who, name.strip(), lasts)
        except ConcordError as error:
            return shown(store, request, 422, problem=str(error))
        return shown(store, request, secret=secret)

    @router.post("/tokens/{token_id}/revoke")
    def revoke(request: Request, token_id: TokenId, token: Token = "") -> Response:
        if wrong := refused(request, token, PATHS["/api/tokens"]):
            return wrong
        try:
            credentials.revoke_token(store, request.state.account.account_id, token_id)
        except ConcordError as error:
            return shown(store, request, 409, problem=str(error))
        return RedirectResponse("/account", status_code=303)

    return router


def shown(store: Store, request: Request, status: int = 200, **values: str) -> Response:
    """The page, with `problem`, `done` or the `secret` of a new token where there is one."""
    who = request.state.account
    holds = who.role in PATHS["/api/tokens"]
    return page(
        request,
        "account.html",
        status,
        who=who,
        csrf=request.state.session.csrf,
        holds_tokens=holds,
        tokens=credentials.tokens(store, who.account_id) if holds else [],
        least=people.MIN_PASSWORD_LENGTH,
        **{"problem": "", "done": "", "secret": "", **values},
    )


def refused(request: Request, token: str, roles: frozenset[str]) -> Response | None:
    """The page that turns a form away: not of this role, or not from our own page."""
    if request.state.account.role not in roles:
        return message_page(request, 403, "Labelers have no API tokens.")
    if not same(request.state.session.csrf, token):
        return message_page(request, 403, "This request did not come from Concord's own page.")
    return None
