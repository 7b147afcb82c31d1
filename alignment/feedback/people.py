"""Labelers, whose rankings count, and accounts, with which people sign in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlite_utils import Database

from alignment.errors import InputError, StoreError
from alignment.feedback import audit
from alignment.feedback.store import Store, now

ROLES = ("labeler", "engineer", "reviewer", "admin")
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 8, 1024
_hasher = PasswordHasher()


@dataclass(frozen=True, slots=True)
class Labeler:
    """Someone, or a simulation, whose rankings count. `kind` is the true kind of a simulated one."""

    labeler_id: str
    name: str
    simulated: bool
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Someone who can sign in. Every account may rank: `labeler_id` is under whose name.

    `epoch`: sessions signed in an earlier one no longer count.
    """

    account_id: str
    role: str
    labeler_id: str
    epoch: int = 0


def add_labelers(store: Store, labelers: Iterable[Labeler]) -> int:
    """Append labelers; one already known with the same nature is left alone. Returns how many were new."""
    with store.writing():
        return sum(_add_labeler(store, labeler) for labeler in labelers)


def _add_labeler(store: Store, labeler: Labeler) -> bool:
    known = store.db.execute(
        "SELECT simulated FROM labelers WHERE labeler_id = ?", [labeler.labeler_id]
    ).fetchone()
    if known is None:
        store.db.table("labelers").insert(
            {
                "labeler_id": labeler.labeler_id,
                "name": labeler.name,
                "simulated": int(labeler.simulated),
                "kind": labeler.kind,
                "created": now(),
            }
        )
        return True
    if bool(known[0]) != labeler.simulated:
        nature = "a simulation" if known[0] else "a person"
        raise StoreError(
            f"The labeler {labeler.labeler_id!r} exists already and is {nature}. Choose another name."
        )
    return False


def labelers(store: Store) -> list[dict[str, Any]]:
    """All labelers, each with role (None where they cannot sign in) and the count of standing rankings."""
    rows = store.rows(
        "SELECT l.labeler_id, l.name, l.simulated, l.kind, a.role, count(r.ranking_id) AS rankings "
        "FROM labelers l LEFT JOIN accounts a ON a.labeler_id = l.labeler_id "
        "LEFT JOIN standing_rankings r ON r.labeler_id = l.labeler_id "
        "GROUP BY l.labeler_id ORDER BY l.rowid"
    )
    return [{**row, "simulated": bool(row["simulated"])} for row in rows]


def add_account(store: Store, name: str, role: str = "labeler", password: str | None = None) -> str:
    """Let a person sign in; returns the password (a fresh one where none is given), which is kept only as a hash.

    Raises `InputError` on an unknown role, an unusable name or a short password, `StoreError` where the name is
    taken.
    """
    password = secrets.token_urlsafe(9) if password is None else password
    if role not in ROLES:
        raise InputError(f"The role {role!r} is not known; choose one of {', '.join(ROLES)}.")
    password_hash = hashed(name, password)
    with store.writing():
        insert_account(store, name, role, password_hash)
    return password


def hashed(name: str, password: str) -> str:
    """The hash of a password, of an account of that name. `InputError` where one of them cannot be used."""
    if not name.strip() or name != name.strip() or len(name) > 64 or not name.isprintable():
        raise InputError("A name needs 1 to 64 characters, without spaces at its ends.")
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise InputError(
            f"The password needs at least {MIN_PASSWORD_LENGTH} characters (and {MAX_PASSWORD_LENGTH} at most)."
        )
    return _hasher.hash(password)


def insert_account(store: Store, name: str, role: str, password_hash: str) -> Account:
    """Add the account and its labeler, inside the caller's transaction. `StoreError` where the name is taken."""
    db = store.db
    if db.execute("SELECT 1 FROM accounts WHERE account_id = ?", [name]).fetchone():
        raise StoreError(f"The account {name!r} exists already. Choose another name.")
    _add_labeler(store, Labeler(name, name, simulated=False))
    row = {
        "account_id": name,
        "role": role,
        "password_hash": password_hash,
        "labeler_id": name,
        "created": now(),
    }
    db.table("accounts").insert(row)
    return Account(name, role, name)


def sign_out_everywhere(store: Store, account_id: str) -> None:
    """End all sessions of the account: those signed before no longer count."""
    with store.writing() as db:
        db.execute("UPDATE accounts SET epoch = epoch + 1 WHERE account_id = ?", [account_id])
        end_links(db, account_id)
        audit.note(db, account_id, "sign out everywhere")


def sign_in(store: Store, name: str, password: str) -> Account | None:
    """The account where name and password belong together; None otherwise, in about the same time."""
    rows = store.rows("SELECT * FROM accounts WHERE account_id = ?", [name])
    password_hash = rows[0]["password_hash"] if rows else _nobody()
    try:
        _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return None
    return _account(rows[0]) if rows else None


def change_password(store: Store, name: str, old: str, new: str) -> Account | None:
    """Give the account another password and end its sessions; None where the old one is wrong.

    Raises `InputError` where the new one is too short, or the old one.
    """
    if sign_in(store, name, old) is None:
        return None
    if new == old:
        raise InputError("The new password is the old one. Choose another.")
    password_hash = hashed(name, new)
    with store.writing() as db:
        changed = set_password(db, name, password_hash)
        audit.note(db, name, "change password")
    return changed


def set_password(db: Database, account_id: str, password_hash: str) -> Account:
    """Give a known account another password; its sessions and the links to a new password end. Inside the caller's
    transaction."""
    db.execute(
        "UPDATE accounts SET password_hash = ?, epoch = epoch + 1 WHERE account_id = ?",
        [password_hash, account_id],
    )
    end_links(db, account_id)
    (row,) = db.query("SELECT * FROM accounts WHERE account_id = ?", [account_id])
    return _account(row)


def end_links(db: Database, account_id: str) -> None:
    """A link to a new password that nobody has used is of no use any more."""
    moment = time.time()
    db.execute(
        "UPDATE invitations SET expires = ? WHERE account_id = ? AND used IS NULL AND expires > ?",
        [moment, account_id, moment],
    )


def account(store: Store, account_id: str) -> Account | None:
    """The account of that name, or None."""
    rows = store.rows("SELECT * FROM accounts WHERE account_id = ?", [account_id])
    return _account(rows[0]) if rows else None


def _account(row: dict[str, Any]) -> Account:
    return Account(row["account_id"], row["role"], row["labeler_id"], row["epoch"])


@cache
def _nobody() -> str:
    """A hash to verify against where the name is unknown, so that the time taken does not tell."""
    return _hasher.hash(secrets.token_urlsafe(16))
