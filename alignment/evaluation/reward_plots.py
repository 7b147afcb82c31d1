"""Figures of a reward model as SVG text, drawn as those of the report are (`plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from alignment.evaluation.plots import _INK, AFTER, NEUTRAL, _figure, _label, _svg

_MOST, _LEAST = 160, 14  # area of the marks, in square points


def reliability_diagram(
    bins: Sequence[dict[str, float]], before: Sequence[dict[str, float]] = (), page: str = ""
) -> str:
    """Predicted against observed probability, one mark per bin; an empty text without bins.

    `before`: the bins without temperature scaling, drawn hollow. `page` tells the ids of several models apart.
    """
    if not bins:
        return ""
    figure, axes = _figure(3.6)
    axes.plot([0.5, 1], [0.5, 1], color=_INK, lw=0.9, ls=":")
    lowest = 0.5
    for rows, label, colour in ((before, "before", NEUTRAL), (bins, "after", AFTER)):
        if not rows:
            continue
        predicted, observed, count = (
            np.array([row[key] for row in rows]) for key in ("predicted", "observed", "count")
        )
        hollow = label == "before"
        axes.plot(predicted, observed, color=colour, lw=1.2, ls="--" if hollow else "-")
        area = _LEAST + (_MOST - _LEAST) * count / count.max()
        face = "none" if hollow else colour
        axes.scatter(
            predicted,
            observed,
            s=area,
            facecolors=face,
            edgecolors=colour,
            label=f"{label} scaling",
        )
        lowest = min(lowest, float(observed.min()))
    if before:
        axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    axes.set(
        xlabel="predicted probability of the preferred completion",
        ylabel="consensus probability",
        xlim=(0.48, 1.02),
        ylim=(lowest - 0.03, 1.02),
    )
    return _svg(figure, f"reliability-diagram{page}", "Reliability diagram of the reward model")


def score_distribution(scores: dict[str, Any], page: str = "") -> str:
    """Histogram of the scores with the mean and one standard deviation on either side."""
    figure, axes = _figure(2.6)
    counts, edges = (np.array(scores["histogram"][key], dtype=float) for key in ("counts", "edges"))
    axes.stairs(counts / counts.sum(), edges, fill=True, color=AFTER, alpha=0.28)
    axes.stairs(counts / counts.sum(), edges, color=AFTER, lw=1.6)
    axes.axvline(scores["mean"], color=_INK, lw=1)
    for side in (-1, 1):
        axes.axvline(scores["mean"] + side * scores["std"], color=_INK, lw=0.9, ls=":")
    axes.set(xlabel="score (line: mean; dotted: one standard deviation)", ylabel="completions")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _svg(figure, f"scores{page}", "Distribution of the reward model's scores")


def accuracy_bars(rows: Sequence[dict[str, Any]], key: str, name: str) -> str:
    """A bar per row with its accuracy; an empty text without rows. `name` makes the ids of the SVG its own."""
    if not rows:
        return ""
    figure, axes = _figure(0.8 + 0.36 * len(rows))
    for place, row in enumerate(rows[::-1]):
        axes.barh(place, row["accuracy"], 0.62, color=NEUTRAL, alpha=0.75)
        text = f"{row['accuracy']:.0%} of {row.get('pairs', row.get('votes'))}"
        at, shift = (row["accuracy"], place), (5, 0)
        axes.annotate(text, at, shift, "data", "offset points", va="center", color=_INK, size=9)
    axes.axvline(0.5, color=_INK, lw=0.9, ls=":")
    axes.set_yticks(range(len(rows)), [_label(row[key]) for row in rows[::-1]], parse_math=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(0, 1.25), xticks=[0, 0.25, 0.5, 0.75, 1])
    return _svg(figure, f"accuracy-{name}", f"Accuracy by {name}")
