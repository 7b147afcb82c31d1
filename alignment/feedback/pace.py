"""How far a labeler is, and at what pace they work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from alignment.config import LabellingConfig
from alignment.feedback.assignment import RULES, left_for
from alignment.feedback.store import Store

PACE_ANSWERS = 50
BREAK = timedelta(minutes=10)
_LOOK_BACK = 300  # answers looked at for the time since the last break


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a labeler is.

    `done`: answers; `left`: tasks still open to them; `today`: answers of this day (UTC); `median_seconds`: of the last
    `PACE_ANSWERS`, None where there are none; `days_in_a_row` with an answer, up to today or yesterday;
    `minutes_since_break`: since the last 10 minutes without an answer, 0 while in one.
    """

    done: int
    left: int
    today: int
    median_seconds: float | None
    days_in_a_row: int
    minutes_since_break: float


def progress(
    store: Store, labeler_id: str, rules: LabellingConfig = RULES, moment: datetime | None = None
) -> Progress:
    """Counts and pace of one labeler."""
    moment = moment or datetime.now(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    left = left_for(store, labeler_id, rules)
    with store.reading() as db:
        done, today = db.execute(
            "SELECT count(*), total(created >= ?) FROM rankings WHERE labeler_id = ? AND supersedes IS NULL",
            [midnight.isoformat(), labeler_id],
        ).fetchone()
        recent = db.execute(
            "SELECT created, seconds FROM rankings WHERE labeler_id = ? ORDER BY created DESC LIMIT ?",
            [labeler_id, _LOOK_BACK],
        ).fetchall()

        def ranked_on(day: datetime) -> bool:
            found = db.execute(
                "SELECT 1 FROM rankings WHERE labeler_id = ? AND created >= ? AND created < ? LIMIT 1",
                [labeler_id, day.isoformat(), (day + timedelta(days=1)).isoformat()],
            )
            return found.fetchone() is not None

        streak = days_in_a_row(midnight, ranked_on) if recent else 0
    seconds = [row[1] for row in recent[:PACE_ANSWERS] if row[1] is not None]
    times = [datetime.fromisoformat(row[0]) for row in recent]
    return Progress(
        done,
        left,
        int(today),
        round(median(seconds), 1) if seconds else None,
        streak,
        minutes_since_break(times, moment),
    )


def days_in_a_row(midnight: datetime, ranked_on) -> int:
    """Days with an answer, counted back from today, or from yesterday while today has none yet."""
    day = midnight if ranked_on(midnight) else midnight - timedelta(days=1)
    count = 0
    while count < 1000 and ranked_on(day):
        count, day = count + 1, day - timedelta(days=1)
    return count


def minutes_since_break(times: list[datetime], moment: datetime) -> float:
    """Minutes since the first answer after the last gap of `BREAK`, of answer times, newest first."""
    if not times or moment - times[0] >= BREAK:
        return 0.0
    first = times[0]
    for earlier in times[1:]:
        if first - earlier >= BREAK:
            break
        first = earlier
    return round((moment - first).total_seconds() / 60, 1)
