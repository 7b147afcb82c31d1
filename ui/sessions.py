"""Who is calling: signed cookies, CSRF tokens, and a brake on guessing passwords.

A session is a cookie that names an account, signed with the workspace's secret: a restart of the server logs nobody
out, and nothing about sessions is kept on the server. The account itself is looked up at every request, so a changed
role counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

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
    """A signed-in browser: whose it is, its CSRF token, and its age in seconds."""

    account_id: str
    csrf: str
    age: float


class Sessions:
    """Makes and reads the signed cookie values of one workspace."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._sessions = URLSafeTimedSerializer(secret, salt="concord-session")
        # Cookies are shared by all ports of a host: two workspaces served side by side must not sign each other out.
        tag = hashlib.sha256(b"cookie" + secret).hexdigest()[:8]
        self.cookie = f"concord_session_{tag}"
        self.form_cookie = f"concord_form_{tag}"

    def issue(self, account_id: str, nonce: str | None = None) -> str:
        """A cookie value for that account; `nonce` is given when a session is renewed, so its CSRF token stays."""
        return str(
            self._sessions.dumps({"account": account_id, "nonce": nonce or secrets.token_hex(16)})
        )

    def read(self, value: str | None) -> Session | None:
        """The session of a cookie value; None where it is missing, forged or expired."""
        loaded = self._load(value)
        if loaded is None:
            return None
        payload, age = loaded
        return Session(payload["account"], self._csrf(payload["nonce"]), age)

    def renew(self, value: str) -> str | None:
        """A fresh value for a cookie older than `RENEW_SECONDS`; None where it need not or cannot be renewed."""
        loaded = self._load(value)
        if loaded is None or loaded[1] < RENEW_SECONDS:
            return None
        return self.issue(loaded[0]["account"], loaded[0]["nonce"])

    def form_nonce(self) -> str:
        """A nonce for the sign-in form's own cookie, before there is a session."""
        return secrets.token_hex(16)

    def form_token(self, nonce: str) -> str:
        """The hidden field that belongs to the form cookie `nonce`."""
        return self._csrf(f"form/{nonce}")

    def form_matches(self, nonce: str | None, token: str) -> bool:
        """Whether the hidden field belongs to the form cookie."""
        return bool(nonce) and same(self.form_token(nonce or ""), token)

    def _load(self, value: str | None) -> tuple[dict[str, str], float] | None:
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


class Throttle:
    """Counts failures per key in a sliding window. In memory: a restart forgives."""

    def __init__(self, limit: int, window_seconds: float) -> None:
        self.limit = limit
        self.window_seconds = window_seconds
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Seconds until this key may try again; 0 where it may now."""
        with self._lock:
            failures = self._recent(key)
            if len(failures) < self.limit:
                return 0.0
            return max(0.0, failures[-self.limit] + self.window_seconds - time.monotonic())

    def failed(self, key: str) -> None:
        """Count a failure."""
        with self._lock:
            self._recent(key).append(time.monotonic())
            for stale in [k for k in self._failures if not self._recent(k)]:
                del self._failures[stale]

    def succeeded(self, key: str) -> None:
        """Forget the key's failures."""
        with self._lock:
            self._failures.pop(key, None)

    def _recent(self, key: str) -> deque[float]:
        failures = self._failures.setdefault(key, deque(maxlen=self.limit))
        horizon = time.monotonic() - self.window_seconds
        while failures and failures[0] <= horizon:
            failures.popleft()
        return failures
