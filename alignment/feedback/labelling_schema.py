"""Steps of the schema: what the labelling rules keep, and who may sign in. Called by `migrations`.

Counters of a task (`taken`, `answered`, `gold`) are kept by triggers, so that no writer can forget them and choosing
the next task reads one index instead of counting rankings.
"""

from __future__ import annotations

from sqlite_utils import Database

_OPEN = "closed = 0 AND gold = 0 AND taken < overlap"

# A task is gold where a standing gold order ranks completions of that task only.
_GOLD = (
    "EXISTS (SELECT 1 FROM standing_known_orders k WHERE k.prompt_id = tasks.prompt_id AND k.source = 'gold' "
    "AND NOT EXISTS (SELECT 1 FROM json_each(k.ranks) j WHERE j.key NOT IN "
    "(SELECT value FROM json_each(tasks.completion_ids))))"
)
_COUNTS = "{row}.kind = 'ranking' AND {row}.task_id IS NOT NULL AND {row}.simulated = 0 AND {row}.supersedes IS NULL"


def labelling(db: Database) -> None:
    """Kinds of rankings and what goes with them, places of tasks, leases of several kinds, drafts, skips, practice."""
    for column in (
        "kind TEXT NOT NULL DEFAULT 'ranking'",
        "guidelines_version INTEGER",
        "flags TEXT",
        "rationale TEXT",
        "confidence INTEGER",
    ):
        db.execute(f"ALTER TABLE rankings ADD COLUMN {column}")
    for column in (
        "closed INTEGER NOT NULL DEFAULT 0",
        "gold INTEGER NOT NULL DEFAULT 0",
        "answered INTEGER NOT NULL DEFAULT 0",
        "taken INTEGER NOT NULL DEFAULT 0",
        "place INTEGER NOT NULL DEFAULT 0",
        "priority REAL",
    ):
        db.execute(f"ALTER TABLE tasks ADD COLUMN {column}")
    for column in (
        "paused INTEGER NOT NULL DEFAULT 0",
        "excluded INTEGER NOT NULL DEFAULT 0",
        "practice_round INTEGER NOT NULL DEFAULT 0",
        "practice_first INTEGER NOT NULL DEFAULT 0",
        "qualified INTEGER",
        "read_decision INTEGER NOT NULL DEFAULT 0",
    ):
        db.execute(f"ALTER TABLE labelers ADD COLUMN {column}")
    _leases(db)
    _indexes_and_counters(db)
    for statement in _TABLES:
        db.execute(statement)
    append_only(db, "practice_answers")


def _leases(db: Database) -> None:
    """Leases may now be of several kinds, and one that lapsed is kept: its draft waits for its labeler."""
    db.execute("ALTER TABLE leases RENAME TO old_leases")
    db.execute(
        "CREATE TABLE leases (token TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES tasks(task_id), "
        "labeler_id TEXT NOT NULL REFERENCES labelers(labeler_id), kind TEXT NOT NULL DEFAULT 'ranking', "
        "supersedes INTEGER REFERENCES rankings(ranking_id), positions TEXT NOT NULL, opened REAL NOT NULL, "
        "shown REAL, spent REAL NOT NULL DEFAULT 0, expires REAL NOT NULL, lapsed INTEGER NOT NULL DEFAULT 0, "
        "skipped INTEGER NOT NULL DEFAULT 0, UNIQUE (task_id, labeler_id, kind))"
    )
    db.execute(
        "INSERT INTO leases (token, task_id, labeler_id, positions, opened, shown, expires) "
        "SELECT token, task_id, labeler_id, positions, shown, shown, expires FROM old_leases"
    )
    db.execute("DROP TABLE old_leases")
    db.execute("CREATE INDEX leases_of_labeler ON leases (labeler_id, opened)")
    db.execute("CREATE INDEX leases_by_expiry ON leases (expires) WHERE lapsed = 0")


def _indexes_and_counters(db: Database) -> None:
    counts_new, counts_row = _COUNTS.format(row="NEW"), _COUNTS.format(row="r")
    # A second first answer of one labeler to one task cannot be stored, whatever the code above does.
    db.execute(
        "CREATE UNIQUE INDEX rankings_once ON rankings (task_id, labeler_id, kind) "
        "WHERE task_id IS NOT NULL AND simulated = 0 AND supersedes IS NULL"
    )
    db.execute("CREATE INDEX rankings_of_labeler ON rankings (labeler_id, created)")
    db.execute(
        "CREATE INDEX rankings_first ON rankings (labeler_id, task_id) WHERE supersedes IS NULL"
    )
    db.execute(f"CREATE INDEX tasks_open ON tasks (taken, place DESC) WHERE {_OPEN}")
    db.execute(
        f"CREATE INDEX tasks_by_priority ON tasks (priority DESC, taken, place DESC) WHERE {_OPEN}"
    )
    db.execute("CREATE INDEX tasks_gold ON tasks (place) WHERE gold = 1")
    db.execute("CREATE INDEX tasks_of_prompt ON tasks (prompt_id)")
    db.execute(
        "UPDATE tasks SET place = rowid, answered = (SELECT count(*) FROM rankings r WHERE "
        f"r.task_id = tasks.task_id AND {counts_row})"
    )
    db.execute(
        "UPDATE tasks SET taken = answered + (SELECT count(*) FROM leases l WHERE l.task_id = tasks.task_id)"
    )
    db.execute(f"UPDATE tasks SET gold = {_GOLD}")
    for name, event, change in (
        (
            "tasks_place AFTER INSERT ON tasks",
            "",
            f"UPDATE tasks SET place = NEW.rowid, gold = {_GOLD} WHERE rowid = NEW.rowid",
        ),
        (
            "known_orders_gold AFTER INSERT ON known_orders",
            "",
            f"UPDATE tasks SET gold = {_GOLD} WHERE prompt_id = NEW.prompt_id",
        ),
        (
            "rankings_count AFTER INSERT ON rankings",
            f"WHEN {counts_new}",
            "UPDATE tasks SET taken = taken + 1, answered = answered + 1 WHERE task_id = NEW.task_id",
        ),
        (
            "leases_take AFTER INSERT ON leases",
            "WHEN NEW.kind = 'ranking' AND NEW.lapsed = 0",
            "UPDATE tasks SET taken = taken + 1 WHERE task_id = NEW.task_id",
        ),
        (
            "leases_give AFTER DELETE ON leases",
            "WHEN OLD.kind = 'ranking' AND OLD.lapsed = 0",
            "UPDATE tasks SET taken = taken - 1 WHERE task_id = OLD.task_id",
        ),
        (
            "leases_lapse AFTER UPDATE OF lapsed ON leases",
            "WHEN NEW.kind = 'ranking' AND NEW.lapsed != OLD.lapsed",
            "UPDATE tasks SET taken = taken + OLD.lapsed - NEW.lapsed WHERE task_id = NEW.task_id",
        ),
    ):
        db.execute(f"CREATE TRIGGER {name} {event} BEGIN {change}; END")


_TABLES = (
    "CREATE TABLE drafts (token TEXT PRIMARY KEY, labeler_id TEXT NOT NULL REFERENCES labelers(labeler_id), "
    "version INTEGER NOT NULL, draft TEXT NOT NULL, updated TEXT NOT NULL)",
    "CREATE TABLE skips (skip_id INTEGER PRIMARY KEY, task_id TEXT NOT NULL REFERENCES tasks(task_id), "
    "labeler_id TEXT NOT NULL REFERENCES labelers(labeler_id), kind TEXT NOT NULL, reason TEXT NOT NULL, "
    "created TEXT NOT NULL, reopened TEXT)",
    "CREATE UNIQUE INDEX skips_standing ON skips (labeler_id, task_id) WHERE reopened IS NULL",
    "CREATE TABLE guidelines (version INTEGER PRIMARY KEY, text TEXT NOT NULL, created TEXT NOT NULL)",
    "CREATE TABLE toxicity_scores (completion_id TEXT PRIMARY KEY, scorer TEXT NOT NULL, score REAL NOT NULL)",
    "CREATE TABLE practice_tasks (token TEXT PRIMARY KEY, labeler_id TEXT NOT NULL REFERENCES labelers(labeler_id), "
    "item_id TEXT NOT NULL, round INTEGER NOT NULL, positions TEXT NOT NULL, shown REAL NOT NULL, "
    "UNIQUE (labeler_id, round, item_id))",
    "CREATE TABLE practice_answers (answer_id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, "
    "labeler_id TEXT NOT NULL REFERENCES labelers(labeler_id), item_id TEXT NOT NULL, round INTEGER NOT NULL, "
    "content TEXT NOT NULL, agreement REAL NOT NULL, correct INTEGER NOT NULL, seconds REAL, created TEXT NOT NULL)",
    "CREATE INDEX practice_of_labeler ON practice_answers (labeler_id, round)",
    "CREATE TABLE preferences (account_id TEXT PRIMARY KEY REFERENCES accounts(account_id), content TEXT NOT NULL)",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


def accounts(db: Database) -> None:
    """Decisions on labelers, invitations, API tokens, lockout, session epochs, and the audit log."""
    db.execute("ALTER TABLE accounts ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0")
    for statement in (
        "CREATE TABLE decisions (decision_id INTEGER PRIMARY KEY, labeler_id TEXT NOT NULL "
        "REFERENCES labelers(labeler_id), action TEXT NOT NULL, reason TEXT NOT NULL, decided_by TEXT NOT NULL, "
        "created TEXT NOT NULL)",
        "CREATE INDEX decisions_on_labeler ON decisions (labeler_id)",
        "CREATE TABLE invitations (invitation_id INTEGER PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE, "
        "role TEXT NOT NULL, created_by TEXT NOT NULL, created TEXT NOT NULL, expires REAL NOT NULL, "
        "used_by TEXT, used TEXT)",
        "CREATE TABLE api_tokens (token_id INTEGER PRIMARY KEY, account_id TEXT NOT NULL "
        "REFERENCES accounts(account_id), name TEXT NOT NULL, token_hash TEXT NOT NULL UNIQUE, "
        "created TEXT NOT NULL, expires REAL NOT NULL, last_used TEXT, revoked TEXT)",
        "CREATE TABLE sign_in_failures (key TEXT NOT NULL, at REAL NOT NULL)",
        "CREATE INDEX sign_in_failures_by_key ON sign_in_failures (key, at)",
        "CREATE TABLE audit (audit_id INTEGER PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, "
        "subject TEXT NOT NULL, detail TEXT NOT NULL)",
        "CREATE INDEX audit_by_who ON audit (who)",
    ):
        db.execute(statement)
    append_only(db, "decisions")
    append_only(db, "audit")


def counted_rankings(db: Database) -> None:
    """The rankings that count as votes: standing ones, without repeats and without those of excluded labelers."""
    db.create_view(
        "counted_rankings",
        "SELECT * FROM standing_rankings WHERE kind != 'repeat' AND labeler_id NOT IN "
        "(SELECT labeler_id FROM labelers WHERE excluded = 1)",
    )


def invitations_back(db: Database) -> None:
    """An invitation may be for the owner of an account, who has forgotten its password."""
    db.execute("ALTER TABLE invitations ADD COLUMN account_id TEXT REFERENCES accounts(account_id)")


def append_only(db: Database, table: str) -> None:
    """Refuse to change or delete a row of the table."""
    for action in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
        )
