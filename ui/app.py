"""The web application of one workspace: sign-in, the labelling API, and the Gradio pages behind the guard."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

# Before Gradio is imported: labelling data and usage stay on this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

import alignment
from alignment.errors import ConcordError
from alignment.feedback.live_consensus import LiveConsensus
from alignment.feedback.store import Store
from ui.access import Access
from ui.account import account_routes
from ui.api import add_error_handlers, api_routes
from ui.blind_api import blind_routes
from ui.blind_page import blind_page
from ui.board import board_page
from ui.consensus_page import consensus_page
from ui.desk import Desk
from ui.dispatcher import Dispatcher
from ui.exports import export_routes
from ui.guard import HOME, PATHS, Guard, caller
from ui.look import page_head, theme
from ui.people_page import people_page
from ui.reports import report_routes
from ui.review_page import review_page
from ui.runs_page import runs_page
from ui.sessions import Sessions, workspace_secret
from ui.shell import ASSETS, asset_url
from ui.sign_in import FormDesk, door_routes


def create_app(workspace: Path, *, secret: bytes | None = None) -> FastAPI:
    """The application that serves the workspace. `secret` signs the sessions; by default the workspace's own.

    Raises `StoreError` where the folder is no workspace.
    """
    workspace = Path(workspace).resolve()
    store = Store(workspace / "feedback.db")
    desk = Desk(store, workspace)
    sessions = Sessions(secret if secret is not None else workspace_secret(workspace))
    app = FastAPI(
        title="Concord",
        version=alignment.__version__,
        docs_url=None,  # its page would load scripts from a CDN
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.desk = desk
    app.add_middleware(Guard, store=store, sessions=sessions)
    add_error_handlers(app)
    forms = FormDesk(sessions)
    app.include_router(door_routes(store, sessions, forms))
    app.include_router(account_routes(store, sessions, forms))
    app.include_router(api_routes(desk))
    app.include_router(blind_routes(store))
    app.include_router(report_routes(store, workspace))
    live = LiveConsensus(store)
    app.include_router(export_routes(store, live))
    app.mount("/assets", StaticFiles(directory=ASSETS), name="assets")

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return RedirectResponse(asset_url("icon.svg"), status_code=301)

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> Response:
        return RedirectResponse(HOME[request.state.account.role], status_code=303)

    access = Access(store, sessions)
    pages = {
        "/board": board_page(),
        "/blind": blind_page(),
        "/runs": runs_page(),
        "/consensus": consensus_page(access, store, live),
        "/review": review_page(access, store, workspace),
        "/people": people_page(access, desk),
    }
    for path, blocks in pages.items():
        _mount(app, path, blocks, store, sessions)
    return app


def _mount(app: FastAPI, path: str, blocks: gr.Blocks, store: Store, sessions: Sessions) -> None:
    """Mount a Gradio page. The guard has checked the role; Gradio asks again."""

    def user(request: Request) -> str | None:
        who = caller(store, sessions, request.cookies)
        return who.account_id if who is not None and who.role in PATHS[path] else None

    gr.mount_gradio_app(
        app,
        blocks,
        path,
        auth_dependency=user,
        footer_links=[],
        run_history=False,  # it would keep what people typed in the browser
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=True,
        theme=theme(),
        head=page_head(),
    )


def serve(workspace: Path, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the workspace until interrupted. Raises `ConcordError` where the port is taken."""
    app = create_app(workspace)
    desk = app.state.desk
    desk.start()
    with _listen(host, port) as listening, Dispatcher(desk.workspace, desk.store):
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is known before anything starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConcordError(
                f"Port {port} is already in use on {host}, by another Concord perhaps. Stop that one, or choose "
                f"another port: `concord ui --port {port + 1}`."
            ) from error
        raise ConcordError(
            f"Cannot listen on {host}:{port} ({error}). Choose another host or port."
        ) from error
    return listening
