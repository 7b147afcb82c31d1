"""Moments and durations as people say them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def ago(moment: str, now: datetime | None = None) -> str:
    """`3 hours ago` for an ISO 8601 moment; the text itself where it is none."""
    then = _parse(moment)
    if then is None:
        return moment
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    for unit, size in _UNITS:
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def elapsed(started: str, ended: str | None) -> str:
    """`1 h 5 min`, `4 min 10 s` or `12 s` between two moments, up to now where the second is None."""
    first, last = _parse(started), _parse(ended) if ended else datetime.now(UTC)
    if first is None or last is None:
        return ""
    seconds = max(0, round((last - first).total_seconds()))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"


def _parse(moment: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
