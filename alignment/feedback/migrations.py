"""The store's schema as a list of numbered steps. A step that has shipped is never edited: add another one."""

from __future__ import annotations

from collections.abc import Callable

from sqlite_utils import Database

from alignment.errors import StoreError


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


def _m007_comparisons(db: Database) -> None:
    """Blind rounds over the completions of an evaluation, and what people answered; verdicts name their figures."""
    db.table("rounds").create(
        {
            "round_id": str,
            "run_id": str,
            "before": str,
            "after": str,
            "pairs": str,
            "opened_by": str,
            "seed": int,
            "created": str,
        },
        pk="round_id",
        not_null={"run_id", "before", "after", "pairs", "opened_by", "seed", "created"},
        foreign_keys=[("run_id", "runs", "run_id")],
    )
    db.table("comparisons").create(
        {
            "comparison_id": int,
            "round_id": str,
            "prompt_id": str,
            "judge": str,
            "before_left": int,
            "choice": str,
            "outcome": str,
            "seconds": float,
            "created": str,
        },
        pk="comparison_id",
        not_null={"round_id", "prompt_id", "judge", "before_left", "choice", "outcome", "created"},
        foreign_keys=[("round_id", "rounds", "round_id")],
    )
    db.table("comparisons").create_index(["round_id", "prompt_id", "judge"], unique=True)
    db.execute("ALTER TABLE reviews ADD COLUMN figures TEXT")
    for table in ("rounds", "comparisons"):
        for action in ("UPDATE", "DELETE"):
            db.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )


def _m009_prompt_categories(db: Database) -> None:
    """What evaluations read of a prompt: its category, and reference answers as a JSON list."""
    db.execute("ALTER TABLE prompts ADD COLUMN category TEXT")
    db.execute("ALTER TABLE prompts ADD COLUMN reference TEXT")


MIGRATIONS: list[Callable[[Database], None]] = [
    _m001_first,
    _m007_comparisons,
    _m009_prompt_categories,
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
