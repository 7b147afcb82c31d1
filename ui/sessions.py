"""Who is calling: signed cookies and CSRF tokens.

A session is a cookie that names an account, signed with the workspace's secret: a restart of the server logs nobody
out, and nothing about a session is kept on the server but its account's epoch: signing out everywhere begins a new one.
The account itself is looked up at every request, so a changed role counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from alignment.errors import StoreError
from alignment.files import disk_errors

SESSION_SECONDS = 12 * 3600
RENEW_SECONDS = 3600
_SECRET_BYTES = 32


def workspace_secret(workspace: Path) -> bytes:
    """The workspace's signing secret: the file `.secret`, readable by its owner only, made at the first call."""
    path = workspace / ".secret"
    with disk_errors(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            path.chmod(0o600)
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(_SECRET_BYTES).encode())
        secret = path.read_bytes().strip()
    if len(secret) < _SECRET_BYTES:
        raise StoreError(
            f"{path} is too short to sign sessions with. Delete it and start again; everybody then signs in anew."
        )
    return secret


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser: whose it is, its CSRF token, its age in seconds, and the account's epoch when it began."""

    account_id: str
    csrf: str
    age: float
    epoch: int = 0


class Sessions:
    """Makes and reads the signed cookie values of one workspace."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._sessions = URLSafeTimedSerializer(secret, salt="concord-session")
        # Cookies are shared by all ports of a host: two workspaces served side by side must not sign each other out.
        tag = hashlib.sha256(b"cookie" + secret).hexdigest()[:8]
        self.cookie = f"concord_session_{tag}"
        self.form_cookie = f"concord_form_{tag}"

    def issue(self, account_id: str, nonce: str | None = None, epoch: int = 0) -> str:
        """A cookie value for that account; `nonce` is given when a session is renewed, so its CSRF token stays."""
        payload = {"account": account_id, "nonce": nonce or secrets.token_hex(16), "epoch": epoch}
        return str(self._sessions.dumps(payload))

    def read(self, value: str | None) -> Session | None:
        """The session of a cookie value; None where it is missing, forged or expired."""
        loaded = self._load(value)
        if loaded is None:
            return None
        payload, age = loaded
        return Session(
            payload["account"], self._csrf(payload["nonce"]), age, payload.get("epoch", 0)
        )

    def renew(self, value: str) -> str | None:
        """A fresh value for a cookie older than `RENEW_SECONDS`; None where it need not or cannot be renewed."""
        loaded = self._load(value)
        if loaded is None or loaded[1] < RENEW_SECONDS:
            return None
        payload = loaded[0]
        return self.issue(payload["account"], payload["nonce"], payload.get("epoch", 0))

    def form_nonce(self) -> str:
        """A nonce for the sign-in form's own cookie, before there is a session."""
        return secrets.token_hex(16)

    def form_token(self, nonce: str) -> str:
        """The hidden field that belongs to the form cookie `nonce`."""
        return self._csrf(f"form/{nonce}")

    def form_matches(self, nonce: str | None, token: str) -> bool:
        """Whether the hidden field belongs to the form cookie."""
        return bool(nonce) and same(self.form_token(nonce or ""), token)

    def _load(self, value: str | None) -> tuple[dict[str, Any], float] | None:
        if not value:
            return None
        try:
            payload, signed = self._sessions.loads(
                value, max_age=SESSION_SECONDS, return_timestamp=True
            )
        except BadSignature:  # an expired signature is one
            return None
        return payload, max(0.0, time.time() - signed.timestamp())

    def _csrf(self, nonce: str) -> str:
        return hmac.new(self._secret, b"csrf/" + nonce.encode(), "sha256").hexdigest()


def same(expected: str, given: str | None) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return given is not None and hmac.compare_digest(expected.encode(), given.encode())
