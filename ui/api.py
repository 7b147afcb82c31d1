"""The labelling API under `/api`: what the board's script calls, and what a program may call with the same cookie.

Errors are JSON, `{"detail": "what is wrong and what to do"}`: 401 signed out, 403 wrong role or CSRF token, 409 the
store refuses (a task that is no longer open, say), 422 the request is malformed or is no ranking of the task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from markdown_it import MarkdownIt
from pydantic import BaseModel, Field

from alignment.errors import ConcordError, InputError, StoreError
from alignment.feedback import assignment
from alignment.feedback.people import Account
from alignment.feedback.store import Store
from alignment.files import data_folder
from alignment.records import MAX_COMPLETIONS, PromptText
from ui.guard import PATHS
from ui.sessions import same

PAGES = {"/board": "Rank", "/blind": "Compare", "/runs": "Runs", "/review": "Review"}


class Turn(BaseModel):
    role: str
    content: str


class ShownCompletion(BaseModel):
    """A completion as a labeler sees it: nothing says which model wrote it."""

    id: str
    text: str


class ShownTask(BaseModel):
    """A task on the board. `completions` are in the order to be shown; `token` makes submitting idempotent."""

    token: str
    prompt: list[Turn]
    completions: list[ShownCompletion]


class Progress(BaseModel):
    """Rankings submitted by the caller, and tasks still open to them."""

    done: int
    left: int


class Next(BaseModel):
    """The caller's task, or null when nothing is left to rank."""

    task: ShownTask | None
    progress: Progress


class Submission(BaseModel):
    """A ranking: completion id -> rank, 1 is best, equal ranks are ties. Every completion must be ranked."""

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    ranks: Annotated[
        dict[str, Annotated[int, Field(strict=True, ge=1, le=MAX_COMPLETIONS)]],
        Field(min_length=1, max_length=MAX_COMPLETIONS),
    ]


class Stored(BaseModel):
    """What was committed to the store."""

    ranks: dict[str, int]
    positions: dict[str, int]
    progress: Progress


class Link(BaseModel):
    path: str
    title: str


class Me(BaseModel):
    """The caller. `csrf` goes into the `X-CSRF-Token` header of every POST."""

    name: str
    role: str
    csrf: str
    pages: list[Link]


class Guidelines(BaseModel):
    """The labelling guidelines as Markdown and as HTML (raw HTML in the Markdown is shown as text)."""

    markdown: str
    html: str


class Problem(BaseModel):
    detail: str


def caller(request: Request) -> Account:
    """The account behind the request; the guard has let it through."""
    if request.state.account is None:
        raise HTTPException(401, "You are not signed in. Sign in, then try again.")
    return request.state.account


def check_csrf(request: Request, x_csrf_token: Annotated[str | None, Header()] = None) -> None:
    """Refuse a state-changing request without the session's token."""
    if not same(request.state.session.csrf, x_csrf_token):
        raise HTTPException(
            403, "The X-CSRF-Token header is missing or stale. Take it from /api/me."
        )


Caller = Annotated[Account, Depends(caller)]
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (401, 403, 409, 411, 413, 422)
}


def api_routes(store: Store, workspace: Path) -> APIRouter:
    """The routes below `/api`."""
    router = APIRouter(prefix="/api", tags=["labelling"], responses=_REFUSALS)

    @router.get("/me")
    def me(request: Request, who: Caller) -> Me:
        pages = [
            Link(path=f"{p}/", title=title) for p, title in PAGES.items() if who.role in PATHS[p]
        ]
        return Me(name=who.account_id, role=who.role, csrf=request.state.session.csrf, pages=pages)

    @router.post("/tasks/next", dependencies=[Depends(check_csrf)])
    def next_task(who: Caller) -> Next:
        """Take a task, or get the open one again with the same order and token."""
        lease = assignment.next_lease(store, who.labeler_id)
        return Next(
            task=None if lease is None else shown(store, lease), progress=progress_of(store, who)
        )

    @router.post("/rankings", dependencies=[Depends(check_csrf)])
    def submit(submission: Submission, who: Caller) -> Stored:
        """Store the ranking. Sending the same again is one answer. The reply comes after the commit."""
        ranking = assignment.submit(store, who.labeler_id, submission.token, submission.ranks)
        return Stored(
            ranks=ranking.ranks,
            positions=ranking.positions or {},
            progress=progress_of(store, who),
        )

    @router.get("/progress")
    def progress(who: Caller) -> Progress:
        return progress_of(store, who)

    @router.get("/guidelines")
    def guidelines(who: Caller) -> Guidelines:
        text = guidelines_text(workspace)
        return Guidelines(
            markdown=text, html=MarkdownIt("commonmark", {"html": False}).render(text)
        )

    return router


def shown(store: Store, lease: assignment.Lease) -> ShownTask:
    """A lease as the board shows it."""
    texts = store.completions(lease.order)
    return ShownTask(
        token=lease.token,
        prompt=turns(store.prompt(lease.task.prompt_id).prompt),
        completions=[ShownCompletion(id=i, text=texts[i].text) for i in lease.order],
    )


def turns(prompt: PromptText) -> list[Turn]:
    """A prompt as chat turns; a plain text is one turn of the role `prompt`."""
    messages = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    return [Turn(role=message["role"], content=message["content"]) for message in messages]


def progress_of(store: Store, who: Account) -> Progress:
    """How far the caller is."""
    counted = assignment.progress(store, who.labeler_id)
    return Progress(done=counted.done, left=counted.left)


def guidelines_text(workspace: Path) -> str:
    """The workspace's own `guidelines.md`, or those that ship with Concord."""
    own = workspace / "guidelines.md"
    path = own if own.is_file() else data_folder() / "guidelines.md"
    return path.read_text(encoding="utf-8", errors="replace")


def add_error_handlers(app: FastAPI) -> None:
    """Every error a caller can cause becomes JSON with a sentence in `detail`."""

    @app.exception_handler(ConcordError)
    def refused(_request: Request, error: ConcordError) -> JSONResponse:
        status = (
            422 if isinstance(error, InputError) else 409 if isinstance(error, StoreError) else 400
        )
        return JSONResponse({"detail": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        # A lone surrogate in a key cannot be sent back as it came.
        message = f"{place}: {first['msg']}.".encode("utf-8", "replace").decode()
        return JSONResponse({"detail": message}, 422)
