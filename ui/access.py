"""Roles inside Gradio's handlers: whoever calls one is checked there, however the call came."""

from __future__ import annotations

import gradio as gr

from alignment.feedback.people import Account
from alignment.feedback.store import Store
from ui.guard import Forbidden, require
from ui.sessions import Sessions


class Access:
    """Tells Gradio handlers who calls them."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self.store = store
        self.sessions = sessions

    def require(self, request: gr.Request, roles: frozenset[str]) -> Account:
        """The calling account if it has one of `roles`; an error shown to the caller otherwise."""
        try:
            return require(self.store, self.sessions, dict(request.cookies.items()), roles)
        except Forbidden as error:
            raise gr.Error(str(error), print_exception=False) from None
