"""Signing in and out: a plain HTML form, no script needed."""

from __future__ import annotations

import math
import threading
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from alignment.feedback import people
from alignment.feedback.store import Store
from ui.guard import HOME, set_session_cookie
from ui.sessions import Sessions, Throttle, same
from ui.shell import message_page, page

FAILURES_PER_NAME = 5
FAILURES_PER_ADDRESS = 30
FAILURE_WINDOW_SECONDS = 300.0
HASHES_AT_ONCE = 2  # argon2 takes 64 MiB a hash: more at once would let strangers fill the memory


def sign_in_routes(store: Store, sessions: Sessions) -> APIRouter:
    """`/sign-in` and `/sign-out`."""
    router = APIRouter(include_in_schema=False)
    by_name = Throttle(FAILURES_PER_NAME, FAILURE_WINDOW_SECONDS)
    by_address = Throttle(FAILURES_PER_ADDRESS, FAILURE_WINDOW_SECONDS)
    hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)

    def form(request: Request, status: int = 200, problem: str = "", name: str = "") -> Response:
        nonce = request.cookies.get(sessions.form_cookie) or sessions.form_nonce()
        response = page(
            request,
            "sign_in.html",
            status,
            problem=problem,
            name=name,
            next=_inside(request.query_params.get("next", "")),
            token=sessions.form_token(nonce),
        )
        response.set_cookie(
            sessions.form_cookie,
            nonce,
            max_age=3600,
            path="/sign-in",
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @router.get("/sign-in")
    def show(request: Request) -> Response:
        who = request.state.account
        return RedirectResponse(HOME[who.role], 303) if who else form(request)

    @router.post("/sign-in")
    def enter(
        request: Request,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        token: Annotated[str, Form()] = "",
    ) -> Response:
        if not sessions.form_matches(request.cookies.get(sessions.form_cookie), token):
            return form(request, 403, "The form had expired. Please sign in again.", name)
        address = request.client.host if request.client else ""
        keys = {by_name: f"{address}/{name.lower()}", by_address: address}
        wait = max(throttle.wait(key) for throttle, key in keys.items())
        if wait > 0:
            minutes = math.ceil(wait / 60)
            problem = (
                f"Too many failed attempts. Try again in {minutes} minute{'s'[: minutes > 1]}."
            )
            response = form(request, 429, problem, name)
            response.headers["retry-after"] = str(math.ceil(wait))
            return response
        with hashing:
            who = people.sign_in(store, name.strip(), password)
        if who is None:
            for throttle, key in keys.items():
                throttle.failed(key)
            return form(request, 401, "Name and password do not belong together.", name)
        by_name.succeeded(keys[by_name])
        target = _inside(request.query_params.get("next", "")) or HOME[who.role]
        response = RedirectResponse(target, status_code=303)
        secure = request.url.scheme == "https"
        set_session_cookie(response, sessions, sessions.issue(who.account_id), secure=secure)
        return response

    @router.post("/sign-out")
    def leave(request: Request, token: Annotated[str, Form()] = "") -> Response:
        if not same(request.state.session.csrf, token):
            return message_page(request, 403, "This request did not come from Concord's own page.")
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(sessions.cookie, path="/")
        return response

    return router


def _inside(target: str) -> str:
    """`target` if it is a path of this site; an empty string otherwise, so that no link leads elsewhere."""
    parts = urlsplit(target)
    outside = parts.scheme or parts.netloc or not target.startswith("/")
    return "" if outside or target.startswith(("//", "/\\")) or "\\" in target else target
