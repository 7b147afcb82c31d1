"""What lets people and programs in besides a password: invitations by link, and API tokens.

Both are random secrets of which only a hash is kept; both expire; an invitation makes one account.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from alignment.errors import InputError, StoreError
from alignment.feedback import audit
from alignment.feedback.people import ROLES, Account, account, hashed, insert_account
from alignment.feedback.store import Store, now

MAX_TOKEN_NAME, MAX_TOKEN_DAYS = 64, 730
TOKEN_PREFIX = "concord_"
_USED_NOTED = timedelta(hours=1)  # how exactly the last use of a token is kept


def _digest(secret: str) -> str:
    """Tokens are 256 random bits: a plain hash is enough, and quick at every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


# Invitations


def invite(store: Store, role: str, by: str, days: float) -> str:
    """A fresh single-use invitation; returns the secret of its link, which is not kept.

    Raises `InputError` on an unknown role.
    """
    if role not in ROLES:
        raise InputError(f"The role {role!r} is not known; choose one of {', '.join(ROLES)}.")
    secret = secrets.token_urlsafe(32)
    with store.writing() as db:
        invitation_id = db.execute(
            "INSERT INTO invitations (token_hash, role, created_by, created, expires) VALUES (?, ?, ?, ?, ?)",
            [_digest(secret), role, by, now(), time.time() + 86400 * days],
        ).lastrowid
        audit.note(db, by, "invite", f"invitation {invitation_id}", role=role)
    return secret


def invited_role(store: Store, secret: str) -> str | None:
    """The role that an invitation gives; None where it is unknown, used or expired."""
    rows = store.rows(
        "SELECT role FROM invitations WHERE token_hash = ? AND used IS NULL AND expires > ?",
        [_digest(secret), time.time()],
    )
    return rows[0]["role"] if rows else None


def redeem(store: Store, secret: str, name: str, password: str) -> Account:
    """Make the account that an invitation is for. The invitation is used up only if the account is made.

    Raises `InputError` on an unusable name or password, `StoreError` where the name is taken or the invitation is used
    or expired.
    """
    password_hash = hashed(name, password)
    with store.writing() as db:
        row = db.execute(
            "SELECT invitation_id, role FROM invitations WHERE token_hash = ? AND used IS NULL AND expires > ?",
            [_digest(secret), time.time()],
        ).fetchone()
        if row is None:
            raise StoreError("This invitation has been used or has expired. Ask for a new one.")
        made = insert_account(store, name, row[1], password_hash)
        db.execute(
            "UPDATE invitations SET used_by = ?, used = ? WHERE invitation_id = ?",
            [name, now(), row[0]],
        )
        audit.note(db, name, "accept invitation", f"invitation {row[0]}", role=row[1])
        return made


# API tokens


def create_token(store: Store, account_id: str, name: str, days: float) -> tuple[int, str]:
    """A fresh API token of an account: its number and its secret, which is not kept.

    Raises `InputError` on a name or a time out of range, `StoreError` on an unknown account.
    """
    if not name.strip() or len(name) > MAX_TOKEN_NAME:
        raise InputError(f"A token needs a name of 1 to {MAX_TOKEN_NAME} characters.")
    if not 0 < days <= MAX_TOKEN_DAYS:
        raise InputError(f"A token lasts up to {MAX_TOKEN_DAYS} days.")
    if account(store, account_id) is None:
        raise StoreError(f"There is no account {account_id!r}.")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    with store.writing() as db:
        token_id = db.execute(
            "INSERT INTO api_tokens (account_id, name, token_hash, created, expires) VALUES (?, ?, ?, ?, ?)",
            [account_id, name, _digest(secret), now(), time.time() + 86400 * days],
        ).lastrowid
        audit.note(db, account_id, "create token", f"token {token_id}", name=name)
    return int(token_id or 0), secret


def tokens(store: Store, account_id: str) -> list[dict[str, Any]]:
    """The account's tokens that can be used: token_id, name, created, expires, last_used. Never a secret."""
    rows = store.rows(
        "SELECT token_id, name, created, expires, last_used FROM api_tokens "
        "WHERE account_id = ? AND revoked IS NULL AND expires > ? ORDER BY token_id",
        [account_id, time.time()],
    )
    return [{**row, "expires": _iso(row["expires"])} for row in rows]


def revoke_token(store: Store, account_id: str, token_id: int) -> None:
    """End a token. `StoreError` where the account has none of that number."""
    with store.writing() as db:
        changed = db.execute(
            "UPDATE api_tokens SET revoked = ? WHERE token_id = ? AND account_id = ? AND revoked IS NULL",
            [now(), token_id, account_id],
        ).rowcount
        if not changed:
            raise StoreError(f"You have no token {token_id}; it may be revoked already.")
        audit.note(db, account_id, "revoke token", f"token {token_id}")


def token_account(store: Store, secret: str) -> Account | None:
    """The account that a token stands for; None where it is unknown, expired or revoked."""
    if not secret.startswith(TOKEN_PREFIX):
        return None
    rows = store.rows(
        "SELECT token_id, account_id, last_used FROM api_tokens "
        "WHERE token_hash = ? AND revoked IS NULL AND expires > ?",
        [_digest(secret), time.time()],
    )
    if not rows:
        return None
    _note_use(store, rows[0])
    return account(store, rows[0]["account_id"])


def _note_use(store: Store, row: dict[str, Any]) -> None:
    last = row["last_used"]
    if last is not None and datetime.now(UTC) - datetime.fromisoformat(last) < _USED_NOTED:
        return
    with store.writing() as db:
        db.execute(
            "UPDATE api_tokens SET last_used = ? WHERE token_id = ?", [now(), row["token_id"]]
        )
        if last is None:
            audit.note(db, row["account_id"], "first use of token", f"token {row['token_id']}")


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
