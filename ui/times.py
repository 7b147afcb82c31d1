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


def _parse(moment: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
