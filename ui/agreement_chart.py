"""Agreement over time as an inline SVG in the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.feedback.agreement_history import Batch
from ui.shell import fragment

LEFT, RIGHT, TOP, BOTTOM = 34.0, 470.0, 12.0, 150.0  # the plotting area, in SVG units
LEAST = -0.2  # bottom of the axis; below it a figure is drawn at the edge


def agreement_chart(batches: Sequence[Batch]) -> str:
    """Alpha with its interval and the share of votes that go with the consensus, batch by batch."""
    if len(batches) < 2:
        return ""
    points = []
    for place, batch in enumerate(batches):
        x = LEFT + (place + 0.5) * (RIGHT - LEFT) / len(batches)
        points.append(
            {
                "x": x,
                "batch": batch,
                "alpha": _height(batch.alpha),
                "low": _height(batch.alpha_low),
                "high": _height(batch.alpha_high),
                "share": _height(batch.with_consensus),
                "first": batch.first[:10],
                "last": batch.last[:10],
            }
        )
    ticks = [(value, _height(value)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return fragment(
        "agreement_chart.html",
        points=points,
        ticks=ticks,
        area=(LEFT, RIGHT, TOP, BOTTOM),
        alpha_line=_line(points, "alpha"),
        share_line=_line(points, "share"),
    )


def _height(value: float | None) -> float | None:
    """The vertical place of a value; None where it is not defined."""
    if value is None:
        return None
    share = (max(value, LEAST) - LEAST) / (1 - LEAST)
    return BOTTOM - share * (BOTTOM - TOP)


def _line(points: Sequence[dict[str, Any]], key: str) -> str:
    return " ".join(f"{p['x']:.1f},{p[key]:.1f}" for p in points if p[key] is not None)
