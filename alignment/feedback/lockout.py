"""A brake on guessing passwords: failures are counted in the store, so that a restart forgives nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from alignment.feedback import audit
from alignment.feedback.store import Store


@dataclass(frozen=True, slots=True)
class Limit:
    """`failures` within `seconds` lock a key until the oldest of them is that long ago."""

    failures: int
    seconds: float


# One person at one place soon; one account from everywhere, and one address for all accounts, later: a stranger can
# lock somebody out for a quarter of an hour at most.
BOTH, ACCOUNT, ADDRESS = Limit(5, 300), Limit(20, 900), Limit(30, 300)


def _keys(name: str, address: str) -> dict[str, Limit]:
    name = name.strip().lower()[:64]
    return {
        f"both/{address}/{name}": BOTH,
        f"account/{name}": ACCOUNT,
        f"address/{address}": ADDRESS,
    }


def wait(store: Store, name: str, address: str) -> float:
    """Seconds until this name may be tried from this address again; 0 where it may now."""
    moment, longest = time.time(), 0.0
    for key, limit in _keys(name, address).items():
        rows = store.rows(
            "SELECT at FROM sign_in_failures WHERE key = ? AND at > ? ORDER BY at DESC LIMIT 1 OFFSET ?",
            [key, moment - limit.seconds, limit.failures - 1],
        )
        if rows:
            longest = max(longest, rows[0]["at"] + limit.seconds - moment)
    return longest


def failed(store: Store, name: str, address: str) -> None:
    """Count a failure."""
    moment = time.time()
    with store.writing() as db:
        oldest = moment - max(limit.seconds for limit in (BOTH, ACCOUNT, ADDRESS))
        db.execute("DELETE FROM sign_in_failures WHERE at <= ?", [oldest])
        for key in _keys(name, address):
            db.execute("INSERT INTO sign_in_failures (key, at) VALUES (?, ?)", [key, moment])
        audit.note(db, name.strip()[:64], "failed sign-in", "", address=address)


def succeeded(store: Store, name: str, address: str) -> None:
    """Forget the failures of this name (not those of the address), and note the sign-in."""
    with store.writing() as db:
        for key, limit in _keys(name, address).items():
            if limit is not ADDRESS:
                db.execute("DELETE FROM sign_in_failures WHERE key = ?", [key])
        audit.note(db, name.strip(), "sign in", "", address=address)
