"""What lets people and programs in besides a password: invitations by link, and API tokens.

Both are random secrets of which only a hash is kept; both expire. An invitation makes one account, or gives one that
exists another password, once.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from alignment.errors import InputError, NotAllowedError, StoreError
from alignment.feedback import audit
from alignment.feedback.people import (
    ROLES,
    Account,
    account,
    end_links,
    hashed,
    insert_account,
    set_password,
)
from alignment.feedback.store import Store, now

MAX_TOKEN_NAME, MAX_TOKEN_DAYS = 64, 730
TOKEN_PREFIX = "concord_"
_USED_NOTED = timedelta(hours=1)  # how exactly the last use of a token is kept


def _digest(secret: str) -> str:
    """Tokens are 256 random bits: a plain hash is enough, and quick at every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


# Invitations


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a link is good for. `account_id`: the account whose owner chooses a new password, None for a new account."""

    role: str
    account_id: str | None


def invite(store: Store, role: str, by: str, days: float) -> str:
    """A fresh single-use invitation; returns the secret of its link, which is not kept.

    Raises `InputError` on an unknown role.
    """
    if role not in ROLES:
        raise InputError(f"The role {role!r} is not known; choose one of {', '.join(ROLES)}.")
    return _invite(store, Invitation(role, None), by, days)


def invite_back(store: Store, account_id: str, by: str, days: float) -> str:
    """Likewise, for the owner of an account who has forgotten its password. Earlier such links end.

    Raises `StoreError` where there is no such account.
    """
    return _invite(store, Invitation(_known(store, account_id).role, account_id), by, days)


def _known(store: Store, account_id: str) -> Account:
    found = account(store, account_id)
    if found is None:
        raise StoreError(
            f"There is no account {account_id!r} in this workspace; simulated and imported labelers have none."
        )
    return found


def invite_as(
    store: Store, who: Account, role: str, account_id: str | None, days: float
) -> tuple[str, str]:
    """The role and the secret of an invitation by `who`, to a new account of `role` or back to one that exists.

    Raises `NotAllowedError` where `who` may not invite that role.
    """
    if account_id:
        role = _known(store, account_id).role
    if role not in may_invite(who.role):
        raise NotAllowedError(f"Only an admin may invite an account of the role {role}.")
    if account_id:
        return role, invite_back(store, account_id, who.account_id, days)
    return role, invite(store, role, who.account_id, days)


def may_invite(role: str) -> tuple[str, ...]:
    """The roles that an account of `role` may invite."""
    return (
        ("labeler", "reviewer", "engineer", "admin") if role == "admin" else ("labeler", "reviewer")
    )


def _invite(store: Store, made: Invitation, by: str, days: float) -> str:
    secret, moment = secrets.token_urlsafe(32), time.time()
    with store.writing() as db:
        if made.account_id:
            end_links(db, made.account_id)
        invitation_id = db.execute(
            "INSERT INTO invitations (token_hash, role, account_id, created_by, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [_digest(secret), made.role, made.account_id, by, now(), moment + 86400 * days],
        ).lastrowid
        if made.account_id:
            audit.note(db, by, "password link", made.account_id, invitation=invitation_id)
        else:
            audit.note(db, by, "invite", f"invitation {invitation_id}", role=made.role)
    return secret


def invitation(store: Store, secret: str) -> Invitation | None:
    """What the link is good for; None where it is unknown, used or expired."""
    rows = store.rows(
        "SELECT role, account_id FROM invitations WHERE token_hash = ? AND used IS NULL AND expires > ?",
        [_digest(secret), time.time()],
    )
    return Invitation(**rows[0]) if rows else None


def redeem(store: Store, secret: str, name: str, password: str) -> Account:
    """Make the account that an invitation is for, or give it another password and end its sessions; `name` is of a new
    account. The invitation is used up only if that is done.

    Raises `InputError` on an unusable name or password, `StoreError` where the name is taken or the invitation is used
    or expired.
    """
    asked = invitation(store, secret)
    owner = asked.account_id if asked else None
    password_hash = hashed(owner or name, password)
    with store.writing() as db:
        row = db.execute(
            "SELECT invitation_id, role FROM invitations WHERE token_hash = ? AND used IS NULL AND expires > ?",
            [_digest(secret), time.time()],
        ).fetchone()
        if row is None:
            raise StoreError("This invitation has been used or has expired. Ask for a new one.")
        if owner:
            made, did = set_password(db, owner, password_hash), "change password"
        else:
            made, did = insert_account(store, name, row[1], password_hash), "accept invitation"
        db.execute(
            "UPDATE invitations SET used_by = ?, used = ? WHERE invitation_id = ?",
            [made.account_id, now(), row[0]],
        )
        audit.note(db, made.account_id, did, f"invitation {row[0]}", role=made.role)
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
