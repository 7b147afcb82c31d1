"""The store's schema as a list of numbered steps. A step that has shipped is never edited: add another one."""

from __future__ import annotations

from collections.abc import Callable

from sqlite_utils import Database

from alignment.errors import StoreError
from alignment.feedback import evaluation_schema, labelling_schema


def _m001_first(db: Database) -> None:
    db.table("prompts").create(
        {"prompt_id": str, "prompt": str, "split": str, "created": str},
        pk="prompt_id",
        not_null={"prompt", "split", "created"},
    )
    db.table("runs").create(
        {
            "run_id": str,
            "stage": str,
            "status": str,
            "config": str,
            "inputs": str,
            "metrics": str,
            "versions": str,
            "folder": str,
            "message": str,
            "started": str,
            "ended": str,
        },
        pk="run_id",
        not_null={"stage", "status", "config", "started"},
    )
    db.table("completions").create(
        {
            "completion_id": str,
            "prompt_id": str,
            "text": str,
            "finished": int,
            "tokens": int,
            "run_id": str,
            "created": str,
        },
        pk="completion_id",
        not_null={"prompt_id", "text", "finished", "created"},
        foreign_keys=[("prompt_id", "prompts", "prompt_id"), ("run_id", "runs", "run_id")],
    )
    db.table("tasks").create(
        {
            "task_id": str,
            "prompt_id": str,
            "completion_ids": str,
            "overlap": int,
            "run_id": str,
            "created": str,
        },
        pk="task_id",
        not_null={"prompt_id", "completion_ids", "overlap", "created"},
        foreign_keys=[("prompt_id", "prompts", "prompt_id"), ("run_id", "runs", "run_id")],
    )
    db.table("labelers").create(
        {"labeler_id": str, "name": str, "simulated": int, "kind": str, "created": str},
        pk="labeler_id",
        not_null={"name", "simulated", "created"},
    )
    db.table("accounts").create(
        {"account_id": str, "role": str, "password_hash": str, "labeler_id": str, "created": str},
        pk="account_id",
        not_null={"role", "password_hash", "created"},
        foreign_keys=[("labeler_id", "labelers", "labeler_id")],
    )
    db.table("leases").create(
        {
            "task_id": str,
            "labeler_id": str,
            "token": str,
            "positions": str,
            "shown": float,
            "expires": float,
        },
        pk=("task_id", "labeler_id"),
        not_null={"token", "positions", "shown", "expires"},
        foreign_keys=[("task_id", "tasks", "task_id"), ("labeler_id", "labelers", "labeler_id")],
    )
    db.table("rankings").create(
        {
            "ranking_id": int,
            "task_id": str,
            "prompt_id": str,
            "labeler_id": str,
            "ranks": str,
            "positions": str,
            "seconds": float,
            "simulated": int,
            "token": str,
            "supersedes": int,
            "created": str,
        },
        pk="ranking_id",
        not_null={"prompt_id", "labeler_id", "ranks", "simulated", "created"},
        foreign_keys=[
            ("task_id", "tasks", "task_id"),
            ("prompt_id", "prompts", "prompt_id"),
            ("labeler_id", "labelers", "labeler_id"),
            ("supersedes", "rankings", "ranking_id"),
        ],
    )
    db.table("rankings").create_index(["token"], unique=True)
    db.table("rankings").create_index(["supersedes"], unique=True)
    db.table("rankings").create_index(["task_id", "labeler_id"])
    db.table("completions").create_index(["prompt_id"])
    db.table("reviews").create(
        {
            "review_id": int,
            "run_id": str,
            "reviewer": str,
            "verdict": str,
            "comment": str,
            "created": str,
        },
        pk="review_id",
        not_null={"run_id", "reviewer", "verdict", "created"},
        foreign_keys=[("run_id", "runs", "run_id")],
    )
    db.create_view(
        "standing_rankings",
        "SELECT * FROM rankings AS r WHERE NOT EXISTS "
        "(SELECT 1 FROM rankings AS newer WHERE newer.supersedes = r.ranking_id)",
    )
    # Feedback is append-only: an edited ranking supersedes the old row.
    for table in ("rankings", "reviews"):
        for action in ("UPDATE", "DELETE"):
            db.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )


def _m002_known_orders(db: Database) -> None:
    """Orders known to be true: gold set beforehand, and adjudications. Null ranks withdraw the order they supersede.
    Rankings may say that none of the completions is acceptable."""
    db.execute("ALTER TABLE rankings ADD COLUMN none_acceptable INTEGER NOT NULL DEFAULT 0")
    db.table("known_orders").create(
        {
            "order_id": int,
            "prompt_id": str,
            "task_id": str,
            "ranks": str,
            "source": str,
            "set_by": str,
            "comment": str,
            "supersedes": int,
            "created": str,
        },
        pk="order_id",
        not_null={"prompt_id", "source", "set_by", "created"},
        foreign_keys=[
            ("prompt_id", "prompts", "prompt_id"),
            ("task_id", "tasks", "task_id"),
            ("supersedes", "known_orders", "order_id"),
        ],
    )
    db.table("known_orders").create_index(["supersedes"], unique=True)
    db.table("known_orders").create_index(["prompt_id"])
    db.create_view(
        "standing_known_orders",
        "SELECT * FROM known_orders AS k WHERE ranks IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM known_orders AS newer WHERE newer.supersedes = k.order_id)",
    )
    for action in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER known_orders_no_{action.lower()} BEFORE {action} ON known_orders "
            "BEGIN SELECT RAISE(ABORT, 'known_orders are append-only'); END"
        )


def _m003_run_queue(db: Database) -> None:
    """Requests behind runs, the processes that work on them, and what people noted about them."""
    db.table("run_requests").create(
        {
            "run_id": str,
            "stage": str,
            "config": str,
            "files": str,
            "launch": str,
            "after": str,
            "resume": int,
            "created_by": str,
            "created": str,
        },
        pk="run_id",
        not_null={"stage", "config", "files", "launch", "after", "resume", "created"},
        foreign_keys=[("run_id", "runs", "run_id")],
    )
    db.table("run_processes").create(
        {"run_id": str, "pid": int, "started": float},
        pk="run_id",
        foreign_keys=[("run_id", "runs", "run_id")],
    )
    db.table("run_marks").create(
        {"mark_id": int, "run_id": str, "kind": str, "value": str, "by": str, "created": str},
        pk="mark_id",
        not_null={"run_id", "kind", "by", "created"},
        foreign_keys=[("run_id", "runs", "run_id")],
    )
    db.table("run_marks").create_index(["run_id"])
    for action in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER run_marks_no_{action.lower()} BEFORE {action} ON run_marks "
            "BEGIN SELECT RAISE(ABORT, 'run_marks are append-only'); END"
        )


def _rankings_of_prompt(db: Database) -> None:
    """Who said what about a prompt, without reading all rankings."""
    db.table("rankings").create_index(["prompt_id"])


MIGRATIONS: list[Callable[[Database], None]] = [
    _m001_first,
    _m002_known_orders,
    _m003_run_queue,
    labelling_schema.labelling,
    labelling_schema.accounts,
    labelling_schema.counted_rankings,
    evaluation_schema.comparisons,
    evaluation_schema.prompt_categories,
    _rankings_of_prompt,
    labelling_schema.invitations_back,
]


def schema_version(db: Database) -> int:
    """How many migrations this store has had."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: Database) -> None:
    """Bring the store to this version's schema, inside the caller's transaction.

    Raises `StoreError` where the store is newer than this version of Concord.
    """
    version = schema_version(db)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"This workspace has schema {version}, but this version of Concord knows only up to "
            f"{len(MIGRATIONS)}: it was made by a newer Concord. Upgrade Concord; nothing was changed."
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        step(db)
        db.execute(f"PRAGMA user_version = {number}")
