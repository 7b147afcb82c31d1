"""The HTTP API under `/api`: the board is written on it, and programs may call it with an API token.

Errors are JSON, `{"detail": "what is wrong and what to do"}`: 401 signed out, 403 wrong role, CSRF token or a labeler
who is paused, 409 the store refuses (a task that is no longer open, say), 422 the request is malformed or is no ranking
of the task.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from alignment.errors import ConcordError, InputError, NotAllowedError, StoreError
from alignment.feedback.drafts import DraftConflict
from alignment.feedback.next_steps import own_next
from alignment.feedback.preferences import preferences, set_preferences
from alignment.feedback.standing import read_messages, standing
from ui.api_data import data_routes
from ui.api_labelling import labelling_routes
from ui.api_models import (
    Conflict,
    Link,
    Me,
    Nothing,
    PreferenceChanges,
    Problem,
    ShownNext,
    ShownPreferences,
)
from ui.api_people import people_routes
from ui.api_runs import run_routes
from ui.api_tokens import token_routes
from ui.callers import CSRF, Caller
from ui.desk import Desk
from ui.guard import PATHS, problem

PAGES = {
    "/board": "Rank",
    "/blind": "Compare",
    "/runs": "Runs",
    "/consensus": "Consensus",
    "/review": "Review",
    "/people": "People",
}
STEP_PAGES = {"rank": "/board", "compare": "/blind", "review": "/review"}  # the others: /runs
REFUSALS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": Problem} for status in (401, 403, 411, 413, 422)},
    409: {"model": Conflict},
}
_WORDS = {
    "Not Found": "There is no such page.",
    "Method Not Allowed": "This address is not a page to look at.",
}
_STATUS = ((InputError, 422), (StoreError, 409), (NotAllowedError, 403))


def api_routes(desk: Desk) -> APIRouter:
    """The routes below `/api`."""
    router = APIRouter(prefix="/api", responses=REFUSALS)
    router.include_router(own_routes(desk))
    router.include_router(labelling_routes(desk))
    router.include_router(token_routes(desk.store))
    router.include_router(people_routes(desk))
    router.include_router(data_routes(desk))
    router.include_router(run_routes(desk.store, desk.workspace))
    return router


def own_routes(desk: Desk) -> APIRouter:
    """Who the caller is, and what they have chosen."""
    router = APIRouter(tags=["account"])
    store = desk.store

    @router.get("/me")
    def me(request: Request, who: Caller) -> Me:
        """The caller, their pages and preferences, and where they stand."""
        stands = standing(store, who.labeler_id, desk.rules)
        session = request.state.session
        return Me(
            name=who.account_id,
            role=who.role,
            csrf=None if session is None else session.csrf,
            pages=[
                Link(path=f"{path}/", title=title)
                for path, title in PAGES.items()
                if who.role in PATHS[path]
            ],
            preferences=ShownPreferences(
                **asdict(preferences(store, who.account_id, desk.defaults))
            ),
            blur_threshold=desk.rules.blur_threshold,
            standing=stands.state,  # pyright: ignore[reportArgumentType]
            message=stands.message,
        )

    @router.get("/next")
    def next_thing(who: Caller) -> ShownNext:
        """The one next thing for the caller to do in the round."""
        found = own_next(store, who, desk.rules)
        path = None if found.step is None else STEP_PAGES.get(found.step, "/runs")
        page = None if path is None else Link(path=f"{path}/", title=PAGES[path])
        return ShownNext(text=found.text, page=page)

    @router.put("/me/preferences", dependencies=[CSRF])
    def prefer(changes: PreferenceChanges, who: Caller) -> ShownPreferences:
        """Change some of the caller's choices."""
        chosen = changes.model_dump(exclude_none=True)
        return ShownPreferences(
            **asdict(set_preferences(store, who.account_id, desk.defaults, **chosen))
        )

    @router.post("/me/messages/read", dependencies=[CSRF])
    def read(who: Caller) -> Nothing:
        """Mark the manager's message as read."""
        read_messages(store, who.labeler_id)
        return Nothing()

    return router


def add_error_handlers(app: FastAPI) -> None:
    """Every error a caller can cause becomes JSON with a sentence in `detail`, or a page where a person looks at it."""

    @app.exception_handler(HTTPException)
    def said(request: Request, error: HTTPException) -> Response:
        message = _WORDS.get(str(error.detail), str(error.detail))
        answer = problem(request.scope, request.headers, error.status_code, message)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ConcordError)
    def refused(_request: Request, error: ConcordError) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
        content: dict[str, Any] = {"detail": str(error)}
        if isinstance(error, DraftConflict):
            content |= {"version": error.version, "draft": error.draft.to_json()}
        return JSONResponse(content, status)

    @app.exception_handler(UnicodeEncodeError)
    def half_a_character(_request: Request, _error: UnicodeEncodeError) -> JSONResponse:
        message = "A text holds half of a character (a lone surrogate), which cannot be stored."
        return JSONResponse({"detail": message}, 422)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        # A lone surrogate in a key cannot be sent back as it came.
        message = f"{place}: {first['msg']}.".encode("utf-8", "replace").decode()
        return problem(request.scope, request.headers, 422, message)
