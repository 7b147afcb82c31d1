"""The schema's steps for evaluations: blind comparisons, categories of prompts. Called by `migrations`."""

from __future__ import annotations

from sqlite_utils import Database

from alignment.feedback.labelling_schema import append_only


def comparisons(db: Database) -> None:
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
        append_only(db, table)


def prompt_categories(db: Database) -> None:
    """What evaluations read of a prompt: its category, and reference answers as a JSON list."""
    db.execute("ALTER TABLE prompts ADD COLUMN category TEXT")
    db.execute("ALTER TABLE prompts ADD COLUMN reference TEXT")
