"""Toxicity of completions as a scorer gave it: kept once, so that showing a task computes nothing.

This floor only stores; who calls the scorer lies above it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from alignment.feedback.store import Store


def toxicity_scores(store: Store, completion_ids: Iterable[str]) -> dict[str, float]:
    """Scores in [0, 1] by completion id, of those that have one."""
    rows = store.rows(
        "SELECT completion_id, score FROM toxicity_scores WHERE completion_id IN (SELECT value FROM json_each(?))",
        [json.dumps(list(completion_ids))],
    )
    return {row["completion_id"]: row["score"] for row in rows}


def keep_toxicity_scores(store: Store, scores: Mapping[str, float], scorer: str) -> None:
    """Store scores of completions; an earlier score of the same completion gives way."""
    with store.writing() as db:
        db.conn.executemany(
            "INSERT OR REPLACE INTO toxicity_scores (completion_id, scorer, score) VALUES (?, ?, ?)",
            [(completion_id, scorer, float(score)) for completion_id, score in scores.items()],
        )


def unscored(store: Store, limit: int) -> dict[str, str]:
    """Id and text of up to `limit` completions without a score, newest first."""
    rows = store.rows(
        "SELECT c.completion_id, c.text FROM completions c WHERE NOT EXISTS "
        "(SELECT 1 FROM toxicity_scores s WHERE s.completion_id = c.completion_id) ORDER BY c.rowid DESC LIMIT ?",
        [limit],
    )
    return {row["completion_id"]: row["text"] for row in rows}
