"""Signing in and out, and accepting an invitation: plain HTML forms, no script needed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from alignment.errors import ConcordError
from alignment.feedback import audit, credentials, lockout, people
from alignment.feedback.people import Account
from alignment.feedback.store import Store
from ui.guard import HOME, set_session_cookie
from ui.sessions import Sessions, same
from ui.shell import message_page, page

# argon2 takes 64 MiB a hash: more at once would let strangers fill the memory. Those who wait wait outside of the
# threads that serve requests, so that a rush of sign-ins delays nobody who is at work.
HASHES_AT_ONCE = 2
T = TypeVar("T")


def door_routes(store: Store, sessions: Sessions, desk: FormDesk) -> APIRouter:
    """`/sign-in`, `/sign-out` and `/invite/{secret}`."""
    router = APIRouter(include_in_schema=False)
    router.include_router(sign_in_routes(store, sessions, desk))
    router.include_router(invite_routes(store, desk))
    return router


def sign_in_routes(store: Store, sessions: Sessions, desk: FormDesk) -> APIRouter:
    """`/sign-in` and `/sign-out`."""
    router = APIRouter()

    def form(request: Request, status: int = 200, problem: str = "", name: str = "") -> Response:
        target = _inside(request.query_params.get("next", ""))
        return desk.form(request, "sign_in.html", status, problem=problem, name=name, next=target)

    @router.get("/sign-in")
    def show(request: Request) -> Response:
        who = request.state.account
        return RedirectResponse(HOME[who.role], 303) if who else form(request)

    @router.post("/sign-in")
    async def enter(
        request: Request,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:
        if not desk.matches(request, token):
            return form(request, 403, "The form had expired. Please sign in again.", name)
        address = request.client.host if request.client else ""
        wait = await run_in_threadpool(lockout.wait, store, name, address)
        if wait > 0:
            return _locked(form(request, 429, too_many(wait), name), wait)
        who = await desk.hashed(lambda: people.sign_in(store, name.strip(), password))
        outcome = lockout.succeeded if who else lockout.failed
        await run_in_threadpool(outcome, store, name, address)
        if who is None:
            return form(request, 401, "Name and password do not belong together.", name)
        return desk.welcome(request, who, _inside(request.query_params.get("next", "")))

    @router.post("/sign-out")
    def leave(request: Request, token: Annotated[str, Form()] = "") -> Response:
        if not same(request.state.session.csrf, token):
            return message_page(request, 403, "This request did not come from Concord's own page.")
        audit.record(store, request.state.account.account_id, "sign out")
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(sessions.cookie, path="/")
        return response

    return router


def invite_routes(store: Store, desk: FormDesk) -> APIRouter:
    """`/invite/{secret}`: choose a name and a password, or a new password."""
    router = APIRouter()

    def form(
        request: Request, secret: str, status: int = 200, problem: str = "", name: str = ""
    ) -> Response:
        found = credentials.invitation(store, secret)
        if found is None:
            return message_page(
                request, 404, "This invitation has been used or has expired. Ask for a new one."
            )
        owner = found.account_id or ""
        values = {"role": found.role, "owner": owner, "name": owner or name}
        return desk.form(request, "invite.html", status, problem=problem, **values)

    @router.get("/invite/{secret}")
    def invited(request: Request, secret: str) -> Response:
        return form(request, secret)

    @router.post("/invite/{secret}")
    async def accept(
        request: Request,
        secret: str,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        again: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:
        if not desk.matches(request, token):
            return form(request, secret, 403, "The form had expired. Please send it again.", name)
        if password != again:
            return form(request, secret, 422, "The two passwords differ.", name)
        if await run_in_threadpool(credentials.invitation, store, secret) is None:
            return form(request, secret)
        try:
            who = await desk.hashed(
                lambda: credentials.redeem(store, secret, name.strip(), password)
            )
        except ConcordError as error:
            return form(request, secret, 422, str(error), name)
        return desk.welcome(request, who)

    return router


class FormDesk:
    """Forms for people who are not signed in: each has a cookie of its own and a hidden field that belongs to it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._hashing = ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="argon2")

    async def hashed(self, work: Callable[[], T]) -> T:
        """Run what hashes a password when its turn has come."""
        return await asyncio.get_running_loop().run_in_executor(self._hashing, work)

    def form(self, request: Request, template: str, status: int, **values: str) -> Response:
        """A page with a form."""
        nonce = request.cookies.get(self._sessions.form_cookie) or self._sessions.form_nonce()
        token = self._sessions.form_token(nonce)
        response = page(request, template, status, token=token, **values)
        response.set_cookie(
            self._sessions.form_cookie,
            nonce,
            max_age=3600,
            path="/" + request.url.path.split("/")[1],
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    def matches(self, request: Request, token: str) -> bool:
        """Whether the form came from our own page."""
        nonce = request.cookies.get(self._sessions.form_cookie)
        return self._sessions.form_matches(nonce, token)

    def welcome(self, request: Request, who: Account, target: str = "") -> Response:
        """Start a session and go to `target`, or home."""
        response = RedirectResponse(target or HOME[who.role], status_code=303)
        value = self._sessions.issue(who.account_id, epoch=who.epoch)
        secure = request.url.scheme == "https"
        set_session_cookie(response, self._sessions, value, secure=secure)
        return response


def too_many(wait: float) -> str:
    """What somebody is told who has guessed too often."""
    minutes = math.ceil(wait / 60)
    return f"Too many failed attempts. Try again in {minutes} minute{'s'[: minutes > 1]}."


def _locked(response: Response, wait: float) -> Response:
    response.headers["retry-after"] = str(math.ceil(wait))
    return response


def _inside(target: str) -> str:
    """`target` if it is a path of this site; an empty string otherwise, so that no link leads elsewhere."""
    parts = urlsplit(target)
    outside = parts.scheme or parts.netloc or not target.startswith("/")
    return "" if outside or target.startswith(("//", "/\\")) or "\\" in target else target
