"""Toxicity and agreement over rounds as SVG pictures. A round without a figure leaves a gap.

They are shown as images, so that they bring their colours, for light and for dark, with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignment.feedback.rounds import Figure, Round
from ui.shell import fragment

What = Literal["toxicity", "agreement"]
LEFT, RIGHT, TOP, BOTTOM = 36.0, 352.0, 12.0, 150.0  # the plotting area, in SVG units
APART = 5.0  # half the distance of two figures of one round
_SERIES: dict[What, tuple[tuple[str, str], ...]] = {
    "toxicity": (("toxicity_before", "before"), ("toxicity_after", "after")),
    "agreement": (
        ("alpha", "Krippendorff's alpha"),
        ("agreement", "votes with the consensus"),
    ),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """A vertical axis: its ends and the values that are marked."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def height(self, value: float) -> float:
        """The vertical place of a value; what lies outside is drawn at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return BOTTOM - share * (BOTTOM - TOP)


def rounds_chart(what: What, rounds: Sequence[Round]) -> str:
    """The picture of one kind of figure, round by round."""
    given = [[getattr(one, key) for one in rounds] for key, _ in _SERIES[what]]
    axis = AGREEMENT if what == "agreement" else toxicity_axis([f for row in given for f in row])
    step = (RIGHT - LEFT) / max(len(rounds), 1)
    series = []
    for place, ((_, label), figures) in enumerate(zip(_SERIES[what], given, strict=True)):
        offset = APART * (2 * place - 1)
        points = [
            None if figure is None else _point(figure, LEFT + (i + 0.5) * step + offset, axis)
            for i, figure in enumerate(figures)
        ]
        series.append({"label": label, "points": points, "lines": _lines(points)})
    return fragment(
        "rounds_chart.svg",
        what=what,
        series=series,
        ticks=[(value, axis.height(value)) for value in axis.ticks],
        numbers=[(one.number, LEFT + (i + 0.5) * step) for i, one in enumerate(rounds)],
        every=max(1, math.ceil(len(rounds) / 20)),
        area=(LEFT, RIGHT),
        legends=(LEFT, LEFT + 145),
    )


AGREEMENT = Axis(-0.2, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def toxicity_axis(figures: Sequence[Figure | None]) -> Axis:
    """From 0 to the next mark above everything that is shown, with at most six marks."""
    top = max((f.high or f.mean for f in figures if f is not None), default=1.0)
    step = next(step for step in (0.02, 0.1, 0.2) if top <= 5 * step)
    marks = max(1, math.ceil(top / step - 1e-9))
    return Axis(0.0, marks * step, tuple(round(i * step, 4) for i in range(marks + 1)))


def _point(figure: Figure, x: float, axis: Axis) -> dict[str, Any]:
    ends = (figure.low, figure.high)
    low, high = (None if value is None else axis.height(value) for value in ends)
    return {"x": x, "y": axis.height(figure.mean), "low": low, "high": high}


def _lines(points: Sequence[dict[str, Any] | None]) -> list[str]:
    """The points of each unbroken stretch, as SVG writes them."""
    stretches: list[list[str]] = [[]]
    for point in points:
        if point is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{point['x']:.1f},{point['y']:.1f}")
    return [" ".join(stretch) for stretch in stretches if len(stretch) > 1]
