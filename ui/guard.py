"""Which role reaches which path, checked at the door, before FastAPI or Gradio see the request.

Deny by default: a path that is in no list below is closed to everybody. Gradio's own endpoints lie under the path of
their page and are covered with it. Handlers check again with `require`: what they do matters more than where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignment.feedback.credentials import token_account
from alignment.feedback.people import ROLES, Account, account
from alignment.feedback.store import Store
from ui.sessions import SESSION_SECONDS, Session, Sessions
from ui.shell import message_page

EVERYBODY = frozenset(ROLES)
ENGINEERS = frozenset({"engineer", "admin"})
REVIEWERS = frozenset({"reviewer", "engineer", "admin"})

PUBLIC = ("/sign-in", "/invite", "/assets", "/favicon.ico")
PATHS: dict[str, frozenset[str]] = {
    "/": EVERYBODY,
    "/sign-out": EVERYBODY,
    "/account": EVERYBODY,
    "/api": EVERYBODY,
    "/board": EVERYBODY,
    "/blind": EVERYBODY,
    "/runs": ENGINEERS,
    "/api/runs": ENGINEERS,
    "/consensus": ENGINEERS,
    "/exports": ENGINEERS,
    "/review": REVIEWERS,
    "/reports": REVIEWERS,
    "/people": ENGINEERS,
    "/api/tokens": REVIEWERS,
    "/api/quality": ENGINEERS,
    "/api/labelers": ENGINEERS,
    "/api/invitations": ENGINEERS,
    "/api/audit": ENGINEERS,
    "/api/import": ENGINEERS,
    "/api/export": ENGINEERS,
}
HOME = {"labeler": "/board/", "engineer": "/runs/", "reviewer": "/review/", "admin": "/runs/"}

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LARGEST_BODY_BYTES = 64 * 1024  # the longest thing anybody sends is a ranking with its rationale
_LARGEST_IMPORT_BYTES = 64 * 1024 * 1024  # by those who may import, and nobody else
# What Gradio offers and no page here uses: files, proxying, calls without a caller.
_UNUSED_GRADIO = ("upload", "file=", "file/", "proxy=", "stream/", "component_server", "deep_link")
# Gradio compiles its templates in the page ('unsafe-eval'); everything comes from this server.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Forbidden(PermissionError):
    """The caller may not do this."""


def roles_of(path: str) -> frozenset[str]:
    """The roles that may reach a path, by the longest of `PATHS` above it; none where there is none."""
    above = [prefix for prefix in PATHS if prefix != "/" and under(path, (prefix,))]
    found = max(above, key=len) if above else path
    return PATHS.get(found, frozenset())


def api_token(scope: Scope, headers: Headers) -> str | None:
    """The API token that a request brings, below `/api` only."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and under(scope["path"], ("/api",)) else None


def is_public(path: str) -> bool:
    """Whether a path is open to callers who are not signed in."""
    return under(path, PUBLIC)


def under(path: str, prefixes: Iterable[str]) -> bool:
    """Whether `path` is one of `prefixes` or lies below one."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def caller(store: Store, sessions: Sessions, cookies: dict[str, str]) -> Account | None:
    """The account that a request's cookies stand for, as the store knows it now; None where there is none."""
    return session_account(store, sessions.read(cookies.get(sessions.cookie)))


def session_account(store: Store, session: Session | None) -> Account | None:
    """The account of a session; None where it is gone, or has signed out everywhere since."""
    found = None if session is None else account(store, session.account_id)
    return (
        found
        if found is not None and session is not None and found.epoch == session.epoch
        else None
    )


def require(
    store: Store, sessions: Sessions, cookies: dict[str, str], roles: frozenset[str]
) -> Account:
    """The calling account if it has one of `roles`; raises `Forbidden` otherwise. For Gradio handlers."""
    found = caller(store, sessions, cookies)
    if found is None:
        raise Forbidden("You are signed out. Reload the page and sign in again.")
    if found.role not in roles:
        raise Forbidden("Your account may not do this.")
    return found


class Guard:
    """ASGI middleware: lets a request through if its session's role may have it, and adds the security headers.

    What it lets through carries `request.state.account` and `request.state.session` (both None on public paths
    without a session).
    """

    def __init__(self, app: ASGIApp, store: Store, sessions: Sessions) -> None:
        self.app = app
        self.store = store
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        cookie = HTTPConnection(scope).cookies.get(self.sessions.cookie)
        session, token = self.sessions.read(cookie), api_token(scope, headers)
        if token is not None:  # a program's: the cookie, if any, does not count
            session, cookie = None, None
            who = await run_in_threadpool(token_account, self.store, token)
        else:
            who = session_account(
                self.store, session
            )  # one indexed read, which waits for no writer
        renewed = self.sessions.renew(cookie) if who is not None and cookie else None
        state = {"account": who, "session": session if who else None, "api_token": token}
        scope.setdefault("state", {}).update(state)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), scope, renewed)
            await send(message)

        refusal = refuse(scope, headers, who, session)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _add_headers(self, headers: MutableHeaders, scope: Scope, renewed: str | None) -> None:
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        # Nobody reads the last page with the back button after signing out.
        if headers.get("content-type", "").startswith(("text/html", "application/json")):
            headers.setdefault("cache-control", "no-store")
        # Signing in or out, or another password, sets the cookie itself.
        if renewed is not None and not under(scope["path"], ("/sign-in", "/sign-out", "/account")):
            carrier = Response()
            set_session_cookie(carrier, self.sessions, renewed, secure=scope["scheme"] == "https")
            headers.append("set-cookie", carrier.headers["set-cookie"])


def refuse(
    scope: Scope, headers: Headers, who: Account | None, session: Session | None
) -> Response | None:
    """The response that turns a request away, or None where it may pass."""
    path, method = scope["path"], scope["method"]
    if method not in _SAFE_METHODS and not same_origin(headers):
        return problem(scope, headers, 403, "This request came from another site and was refused.")
    importing = who is not None and who.role in ENGINEERS and under(path, ("/api/import",))
    largest = _LARGEST_IMPORT_BYTES if importing else _LARGEST_BODY_BYTES
    if wrong_size := _body_problem(method, headers, largest):
        return problem(scope, headers, *wrong_size)
    if is_public(path):
        return None
    if who is None:
        if method in ("GET", "HEAD") and wants_html(headers):
            target = path + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
            suffix = "" if target == "/" else "?next=" + quote(target, safe="/")
            return RedirectResponse("/sign-in" + suffix, status_code=303)
        return problem(scope, headers, 401, "You are not signed in. Sign in, then try again.")
    if who.role not in roles_of(path):
        if roles_of(path):
            return problem(
                scope,
                headers,
                403,
                f"The role {who.role} has no access to this page. Go back home.",
            )
        return problem(scope, headers, 404, "There is no such page.")
    if path.partition("/gradio_api/")[2].startswith(_UNUSED_GRADIO):
        return problem(scope, headers, 404, "There is no such page.")
    return None


def same_origin(headers: Headers) -> bool:
    """Whether a browser says that the request comes from our own page; programs that send neither header pass."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _body_problem(method: str, headers: Headers, largest: int) -> tuple[int, str] | None:
    if method in _SAFE_METHODS:
        return None
    length = headers.get("content-length", "")
    if not length.isdecimal():
        # A request without a body has neither header.
        chunked = "transfer-encoding" in headers or length
        return (411, "The request must state its Content-Length.") if chunked else None
    if int(length) > largest:
        return 413, f"The request is larger than {largest} bytes."
    return None


def wants_html(headers: Headers) -> bool:
    """Whether a person looks at the answer."""
    return "text/html" in headers.get("accept", "")


def problem(scope: Scope, headers: Headers, status: int, message: str) -> Response:
    """A refusal, as a page for people and as JSON for programs."""
    if wants_html(headers) and not under(scope["path"], ("/api",)):
        return message_page(Request(scope), status, message)
    return JSONResponse({"detail": message}, status_code=status)


def set_session_cookie(response: Response, sessions: Sessions, value: str, *, secure: bool) -> None:
    """Set the session cookie: out of reach of scripts, and not sent along from other sites."""
    options: dict[str, Any] = {"httponly": True, "samesite": "lax", "path": "/", "secure": secure}
    response.set_cookie(sessions.cookie, value, max_age=SESSION_SECONDS, **options)
