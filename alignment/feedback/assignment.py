"""Which labeler ranks which task: leases, each one labeler's place in a task.

A lease is taken and turned into a ranking in single write transactions, so that a task never gets more rankings than
its overlap and one labeler never ranks it twice. A lease that runs out frees its place; it and its draft are kept, and
its labeler gets both back while the place is free.

Leases are of four kinds. `ranking` takes one of the task's places. `gold` (the true order is known) and `repeat` (the
labeler has ranked it before) check the labeler, look like any other and take no place. `edit` changes an own answer.
"""

from __future__ import annotations

import json
import random
import secrets
import sqlite3
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from alignment.config import LabellingConfig
from alignment.errors import StoreError
from alignment.feedback.store import Store, Task

RULES = LabellingConfig()  # pyright: ignore[reportCallIssue]
CHOICES = 64  # gold and repeat tasks are drawn among this many


@dataclass(frozen=True, slots=True)
class Lease:
    """A task shown to a labeler. `order`: completion ids in the order shown; `token` makes submitting idempotent."""

    task: Task
    labeler_id: str
    token: str
    order: tuple[str, ...]
    kind: str = "ranking"
    supersedes: int | None = None


def next_lease(
    store: Store,
    labeler_id: str,
    rules: LabellingConfig = RULES,
    *,
    lease_seconds: float | None = None,
) -> Lease | None:
    """The labeler's open lease, or a fresh one by the rules' strategy; None when nothing is left.

    An open lease is given again with the same order and token, so that a reload or a second tab shows the same board.
    """
    moment = time.time()
    expires = moment + (60 * rules.lease_minutes if lease_seconds is None else lease_seconds)
    with store.writing(durable=False) as db:
        lapse(db, moment)
        for row in list(
            db.query(
                "SELECT * FROM leases WHERE labeler_id = ? AND skipped = 0 ORDER BY opened DESC, rowid DESC",
                [labeler_id],
            )
        ):
            if holds(db, row):
                db.execute(
                    "UPDATE leases SET lapsed = 0, expires = ?, shown = coalesce(shown, ?) WHERE token = ?",
                    [expires, moment, row["token"]],
                )
                return lease_of(store, row)
        chosen = _choose(db, labeler_id, rules)
        if chosen is None:
            return None
        return open_lease(store, store.task(chosen[0]), labeler_id, chosen[1], moment, expires)


def lapse(db: Database, moment: float) -> None:
    """Free the places of leases that have run out."""
    db.execute("UPDATE leases SET lapsed = 1 WHERE lapsed = 0 AND expires <= ?", [moment])


def holds(db: Database, lease: Mapping[str, Any]) -> bool:
    """Whether a lease may still be answered: it has its place, or its place is free again."""
    if lease["kind"] == "edit":
        return True
    row = db.execute(
        "SELECT closed, taken < overlap FROM tasks WHERE task_id = ?", [lease["task_id"]]
    ).fetchone()
    return not row[0] and (lease["kind"] != "ranking" or not lease["lapsed"] or bool(row[1]))


def open_lease(
    store: Store,
    task: Task,
    labeler_id: str,
    kind: str,
    moment: float,
    expires: float,
    *,
    supersedes: int | None = None,
    positions: Mapping[str, int] | None = None,
) -> Lease:
    """A fresh lease, inside the caller's transaction. The clock of the labeler's other open leases stops."""
    stop_clocks(store.db, labeler_id, moment)
    row = {
        "token": secrets.token_urlsafe(16),
        "task_id": task.task_id,
        "labeler_id": labeler_id,
        "kind": kind,
        "supersedes": supersedes,
        "positions": json.dumps(positions or shown_positions(task, labeler_id, kind)),
        "opened": moment,
        "shown": moment,
        "expires": expires,
    }
    columns = ", ".join(row)
    try:
        store.db.execute(
            f"INSERT INTO leases ({columns}) VALUES ({', '.join('?' * len(row))})",
            list(row.values()),
        )
    except sqlite3.IntegrityError:  # pragma: no cover - a lease of this kind is open already
        raise StoreError("This task is open for you already. Load the next one.") from None
    return lease_of(store, row, task)


def stop_clocks(db: Database, labeler_id: str, moment: float) -> None:
    """Stop the clocks of the labeler's open leases: another task is in front of them now."""
    db.execute(
        "UPDATE leases SET spent = spent + max(0, ? - shown), shown = NULL WHERE labeler_id = ? AND shown IS NOT NULL",
        [moment, labeler_id],
    )


def lease_of(store: Store, row: Mapping[str, Any], task: Task | None = None) -> Lease:
    """A row of the table as a lease."""
    positions = json.loads(row["positions"])
    return Lease(
        task or store.task(row["task_id"]),
        row["labeler_id"],
        row["token"],
        tuple(sorted(positions, key=positions.__getitem__)),
        row["kind"],
        row["supersedes"],
    )


def shown_positions(task: Task, labeler_id: str, kind: str = "ranking") -> dict[str, int]:
    """Completion id -> place: a shuffle fixed by task, turned on by one place for each labeler (counterbalance).

    A repeat is turned on further, so that it does not stand as it stood the first time.
    """
    order = list(task.completion_ids)
    random.Random(task.task_id).shuffle(order)
    turn = random.Random(f"{task.task_id}/{labeler_id}").randrange(len(order))
    if kind == "repeat":
        turn += random.Random(f"{labeler_id}/{task.task_id}/repeat").randrange(1, len(order))
    return {completion_id: (place + turn) % len(order) for place, completion_id in enumerate(order)}


# Which task comes next

_OPEN = "t.closed = 0 AND t.gold = 0 AND t.taken < t.overlap"
_NOT_MINE = (
    "NOT EXISTS (SELECT 1 FROM rankings r WHERE r.task_id = t.task_id AND r.labeler_id = :labeler "
    "AND r.supersedes IS NULL) AND NOT EXISTS (SELECT 1 FROM skips s WHERE s.task_id = t.task_id "
    "AND s.labeler_id = :labeler AND s.reopened IS NULL)"
)
_ORDER = {
    "fewest": "t.taken, t.place DESC",
    # Tasks without a figure (new prompts, say) come after those that have one.
    "disputed": "t.priority DESC, t.taken, t.place DESC",
    "uncertain": "t.priority DESC, t.taken, t.place DESC",
}
_GOLD = f"SELECT t.task_id FROM tasks t WHERE t.gold = 1 AND t.closed = 0 AND {_NOT_MINE} LIMIT {CHOICES}"
_REPEAT = (
    "SELECT r.task_id FROM rankings r JOIN tasks t USING (task_id) WHERE r.labeler_id = :labeler "
    "AND r.kind = 'ranking' AND r.supersedes IS NULL AND t.closed = 0 AND NOT EXISTS (SELECT 1 FROM rankings again "
    "WHERE again.task_id = r.task_id AND again.labeler_id = :labeler AND again.kind = 'repeat') "
    "AND NOT EXISTS (SELECT 1 FROM skips s WHERE s.task_id = r.task_id AND s.labeler_id = :labeler) "
    "AND r.ranking_id < coalesce((SELECT ranking_id FROM rankings WHERE labeler_id = :labeler "
    f"AND supersedes IS NULL ORDER BY ranking_id DESC LIMIT 1 OFFSET :distance - 1), 0) LIMIT {CHOICES}"
)


def _choose(db: Database, labeler_id: str, rules: LabellingConfig) -> tuple[str, str] | None:
    """Task and kind of the labeler's next lease."""
    who = {"labeler": labeler_id}
    ordinary = db.execute(
        f"SELECT t.task_id FROM tasks t WHERE {_OPEN} AND {_NOT_MINE} ORDER BY {_ORDER[rules.strategy]} LIMIT 1",
        who,
    ).fetchone()
    if ordinary is None:
        return None
    checks = Checks(_salt(db), labeler_id, rules)
    turn = turns(db, labeler_id)
    for kind in checks.kinds(turn):
        query = _GOLD if kind == "gold" else _REPEAT
        found = db.execute(
            query, who if kind == "gold" else {**who, "distance": rules.repeat_distance}
        ).fetchall()
        if found:
            draw = random.Random(f"{checks.salt}/{labeler_id}/{turn}")
            return draw.choice(sorted(found))[0], kind
    return ordinary[0], "ranking"


@dataclass(frozen=True, slots=True)
class Checks:
    """At which of a labeler's turns (counted from 0) a gold or repeat task stands in for an ordinary one.

    Turns fall into blocks of 1 / (gold_rate + repeat_rate); in each, one turn that only the store's salt tells is a
    check. So checks come at the set rate, nobody can foresee them, and how many lie ahead is known without looking.
    """

    salt: str
    labeler_id: str
    rules: LabellingConfig

    @property
    def period(self) -> int:
        """Turns in a block; 0 where there are no checks."""
        rate = self.rules.gold_rate + self.rules.repeat_rate
        return round(1 / rate) if rate else 0

    def kinds(self, turn: int) -> tuple[str, ...]:
        """The kinds to try at a turn, first choice first; none at most turns."""
        if not self.period or turn % self.period != self._draw("turn", turn // self.period):
            return ()
        rate = {"gold": self.rules.gold_rate, "repeat": self.rules.repeat_rate}
        share = self._draw("kind", turn // self.period, 10_000) / 10_000
        gold_first = share < rate["gold"] / (rate["gold"] + rate["repeat"])
        order = ("gold", "repeat") if gold_first else ("repeat", "gold")
        return tuple(kind for kind in order if rate[kind])

    def among(self, first: int, count: int) -> int:
        """How many of the `count` turns from `first` on are checks."""
        return self._before(first + count) - self._before(first)

    def _before(self, turn: int) -> int:
        if not self.period:
            return 0
        block, rest = divmod(turn, self.period)
        return block + (self._draw("turn", block) < rest)

    def _draw(self, what: str, block: int, size: int | None = None) -> int:
        text = f"{self.salt}/{self.labeler_id}/{what}/{block}"
        return zlib.crc32(text.encode("utf-8", "replace")) % (size or self.period)


def turns(db: Database, labeler_id: str) -> int:
    """How many tasks the labeler has answered or skipped."""
    row = db.execute(
        "SELECT (SELECT count(*) FROM rankings WHERE labeler_id = :labeler AND supersedes IS NULL) "
        "+ (SELECT count(*) FROM skips WHERE labeler_id = :labeler)",
        {"labeler": labeler_id},
    ).fetchone()
    return int(row[0])


def _salt(db: Database) -> str:
    """The store's own secret, by which checks are placed; made at the first call."""
    row = db.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()
    if row is not None:
        return str(row[0])
    salt = secrets.token_hex(8)
    db.execute("INSERT INTO facts (name, value) VALUES ('salt', ?)", [salt])
    return salt


_LEFT = (
    f"SELECT (SELECT count(*) FROM tasks t WHERE {_OPEN}) "
    "- (SELECT count(*) FROM rankings r JOIN tasks t USING (task_id) WHERE r.labeler_id = :labeler "
    f"AND r.supersedes IS NULL AND r.kind = 'ranking' AND {_OPEN}) "
    "- (SELECT count(*) FROM skips s JOIN tasks t USING (task_id) WHERE s.labeler_id = :labeler "
    f"AND s.reopened IS NULL AND s.kind = 'ranking' AND {_OPEN}) "
    "+ (SELECT count(*) FROM leases l JOIN tasks t USING (task_id) WHERE l.labeler_id = :labeler "
    "AND l.kind = 'ranking' AND l.lapsed = 0 AND t.closed = 0 AND t.taken >= t.overlap)"
)


def left_for(store: Store, labeler_id: str, rules: LabellingConfig = RULES) -> int:
    """Tasks still open to the labeler, the one at hand and the checks to come included."""
    with store.reading() as db:
        ordinary = max(0, db.execute(_LEFT, {"labeler": labeler_id}).fetchone()[0])
        if not ordinary or not rules.gold_rate + rules.repeat_rate:
            return ordinary
        row = db.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()
        turn = turns(db, labeler_id)
        gold = len(db.execute(_GOLD, {"labeler": labeler_id}).fetchall())
    checks = Checks(row[0] if row else "", labeler_id, rules)
    # Where nothing can be repeated, the checks are the gold tasks that are left.
    limit = ordinary if rules.repeat_rate and turn + ordinary > rules.repeat_distance else gold
    total = ordinary
    while total < (more := ordinary + min(limit, checks.among(turn, total))):
        total = more
    return total


def set_priorities(store: Store, priorities: Mapping[str, float], source: str) -> int:
    """Set the priority of the tasks of each prompt (higher comes first); `source` names where they come from.

    Returns how many tasks have one now.
    """
    with store.writing() as db:
        db.execute("UPDATE tasks SET priority = NULL WHERE priority IS NOT NULL")
        for prompt_id, value in priorities.items():
            db.execute("UPDATE tasks SET priority = ? WHERE prompt_id = ?", [value, prompt_id])
        db.execute("INSERT OR REPLACE INTO facts VALUES ('priorities', ?)", [source])
        return db.execute("SELECT count(*) FROM tasks WHERE priority IS NOT NULL").fetchone()[0]


def priorities_source(store: Store) -> str | None:
    """Where the present priorities come from, or None."""
    rows = store.rows("SELECT value FROM facts WHERE name = 'priorities'")
    return rows[0]["value"] if rows else None


def close_tasks(store: Store, prompt_ids: list[str], *, except_tasks: list[str]) -> int:
    """Close the open tasks of these prompts, but not `except_tasks`: a new round has begun. Returns how many."""
    with store.writing() as db:
        return db.execute(
            "UPDATE tasks SET closed = 1 WHERE closed = 0 AND prompt_id IN (SELECT value FROM json_each(?)) "
            "AND task_id NOT IN (SELECT value FROM json_each(?))",
            [json.dumps(prompt_ids), json.dumps(except_tasks)],
        ).rowcount
