"""Figures of a comparison as SVG text, for pages in light and in dark.

Backgrounds are transparent, text and axes take the page's own text colour (`currentColor`), and the two data colours
(blue and vermilion, near those of Okabe and Ito 2008) keep a contrast of at least 3:1 on white and on near-black.
Colour never says something alone: markers, lines and words say it too. Figures are built through matplotlib's objects,
without pyplot's global state, so that a server may draw several at once.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BEFORE, AFTER, NEUTRAL = "#d9662b", "#2e86c9", "#8a8f98"
WIDTH = 4.8  # inches; narrow, so that the text stays readable on a telephone
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_TOO_MANY = 2000  # points, from which on a scatter is drawn as an image
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "concord", "font.size": 10}
_LOCK = threading.Lock()  # matplotlib's settings are global to the process

# One panel of the training curves: title, and the keys drawn in it, solid first.
TRAINING_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Reward", ("reward", "eval_reward")),
    ("KL from reference, nats", ("kl",)),
    ("Policy loss", ("policy_loss",)),
    ("Value loss", ("value_loss",)),
    ("Entropy, nats per token", ("entropy",)),
    ("Explained variance", ("explained_variance",)),
    ("Share of ratios clipped", ("clip_fraction",)),
    ("KL coefficient", ("kl_coef",)),
    ("Completion length, tokens", ("length",)),
    ("Share finished", ("finished",)),
)


def visible(text: str) -> str:
    """`text` with unseen characters as codes: control characters, and marks that turn the direction of writing.

    Line feeds and tabs stay. Lone surrogates, which no file can hold, become the replacement character.
    """
    return _UNSEEN.sub(lambda match: _code(ord(match[0])), text)


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _code(character: int) -> str:
    return "\ufffd" if 0xD800 <= character <= 0xDFFF else f"⟨U+{character:04X}⟩"


def toxicity_distribution(
    before: Sequence[float],
    after: Sequence[float],
    names: tuple[str, str] = ("before", "after"),
    threshold: float | None = None,
) -> str:
    """Histograms of the toxicity scores of both models' completions, as shares of each model's completions."""
    figure, axes = _figure(3.3)
    edges = np.linspace(0, 1, 21)
    for scores, name, colour, style in (
        (before, names[0], BEFORE, "--"),
        (after, names[1], AFTER, "-"),
    ):
        shares = np.histogram(scores, edges)[0] / max(len(scores), 1)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.28)
        axes.stairs(shares, edges, color=colour, lw=1.8, ls=style, label=_label(name))
    if threshold is not None:
        axes.axvline(threshold, color=_INK, lw=1, ls=":", label=f"toxic from {threshold:g} on")
    axes.set(xlabel="toxicity of a completion", ylabel="share of completions", xlim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure, "distribution", f"Toxicity scores of {names[0]} and {names[1]}")


def prompt_scatter(
    before: Sequence[float],
    after: Sequence[float],
    names: tuple[str, str] = ("before", "after"),
    tolerance: float = 0.0,
) -> str:
    """Mean toxicity of each prompt before (x) and after (y). Above the diagonal the prompt got worse.

    `tolerance`: a rise up to this counts as none.
    """
    figure, axes = _figure(4.0)
    x, y = np.asarray(before, float), np.asarray(after, float)
    worse = y > x + tolerance
    axes.fill_between([0, 1], [0, 1], 1, color=BEFORE, alpha=0.07, lw=0)
    axes.plot([0, 1], [0, 1], color=_INK, lw=0.9, ls=":")
    for chosen, marker, colour, word in (
        (~worse, "o", AFTER, "not worse"),
        (worse, "^", BEFORE, "got worse"),
    ):
        axes.scatter(
            x[chosen],
            y[chosen],
            s=26,
            c=colour,
            marker=marker,
            alpha=0.55,
            lw=0,
            label=f"{word}: {int(chosen.sum())} prompts",
            rasterized=len(x) > _TOO_MANY,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xlabel(f"mean toxicity, {_label(names[0])}", parse_math=False)
    axes.set_ylabel(f"mean toxicity, {_label(names[1])}", parse_math=False)
    _legend(axes, "upper left")
    return _svg(figure, "scatter", f"Mean toxicity of each prompt, {names[0]} against {names[1]}")


def toxicity_versus_kl(points: Sequence[dict[str, Any]]) -> str:
    """The trade-off: toxicity against KL from the reference, one point per model or checkpoint.

    Each point has `kl` (nats per completion) and `toxicity`, and may have `name`, `low` and `high`.
    """
    figure, axes = _figure(3.4)
    drawn = sorted((p for p in points if _finite(p, "kl", "toxicity")), key=lambda p: p["kl"])
    kl, toxicity = ([p[key] for p in drawn] for key in ("kl", "toxicity"))
    axes.plot(kl, toxicity, color=AFTER, lw=1.2, alpha=0.6)
    for p in drawn:
        if _finite(p, "low", "high"):
            axes.plot([p["kl"]] * 2, [p["low"], p["high"]], color=AFTER, lw=1.4, alpha=0.8)
        axes.annotate(
            _label(str(p.get("name", ""))),
            (p["kl"], p["toxicity"]),
            xytext=(6, 6),
            textcoords="offset points",
            color=_INK,
            size=9,
            parse_math=False,
        )
    axes.scatter(kl, toxicity, s=34, c=AFTER, zorder=3)
    axes.set(xlabel="KL from the reference, nats per completion", ylabel="mean toxicity")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.12)
    return _svg(figure, "kl", "Mean toxicity against KL from the reference")


def training_curves(rows: Sequence[dict[str, Any]]) -> str:
    """What PPO logged per iteration, one panel per figure; panels without a single number are left out.

    Each row has `iteration` (its place counts where it is missing) and any of the keys in `TRAINING_PANELS`.
    An empty text where there is nothing to draw.
    """
    steps = [row["iteration"] if _finite(row, "iteration") else i for i, row in enumerate(rows)]
    panels = [
        (title, series)
        for title, keys in TRAINING_PANELS
        if (series := [s for key in keys if (s := _series(rows, steps, key))])
    ]
    if not panels:
        return ""
    lines = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(WIDTH, 1.75 * lines), layout="constrained")
    grid = np.atleast_2d(figure.subplots(lines, 2))
    for axes, (title, series) in zip(grid.flat, panels, strict=False):
        _bare(axes)
        axes.set_title(title, loc="left", size=9.5, color=_INK)
        for (key, x, y), colour, style in zip(series, (AFTER, BEFORE), ("-", "--"), strict=False):
            marker = "o" if len(x) < 16 else ""
            axes.plot(x, y, style, color=colour, lw=1.6, marker=marker, ms=3, label=_words(key))
        if len(series) > 1:
            _legend(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("iteration", size=9, color=_INK)
    return _svg(figure, "training", "Training curves: " + ", ".join(title for title, _ in panels))


def labeler_reliability(rows: Sequence[dict[str, Any]]) -> str:
    """Reliability of each labeler with its interval, most reliable first; flagged ones are marked and named.

    Each row has `labeler_id` and `reliability`, and may have `low`, `high`, `kind`, `flagged`. An empty text where no
    labeler has a reliability.
    """
    drawn = sorted((row for row in rows if _finite(row, "reliability")), key=_reliability)
    if not drawn:
        return ""
    figure, axes = _figure(0.9 + 0.27 * len(drawn))
    for place, row in enumerate(drawn):
        flagged = bool(row.get("flagged"))
        colour = BEFORE if flagged else AFTER
        if _finite(row, "low", "high"):
            axes.plot([row["low"], row["high"]], [place] * 2, color=colour, lw=2, alpha=0.6)
        axes.plot(row["reliability"], place, "X" if flagged else "o", color=colour, ms=7)
    axes.axvline(0, color=_INK, lw=0.9, ls=":")
    axes.set_yticks(range(len(drawn)), [_labeler(row) for row in drawn], parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("reliability (below 0: reversed)")
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    return _svg(figure, "reliability", "Reliability of the labelers")


def reward_accuracy(reward: dict[str, Any]) -> str:
    """Held-out accuracy of the reward model beside the labelers' own agreement with the consensus.

    `reward` has `accuracy` or `labeler_agreement`, each perhaps with `_low` and `_high` for its interval. An empty text
    where it has neither.
    """
    rows = [
        (name, key, colour, hatch)
        for name, key, colour, hatch in (
            ("reward model, held-out pairs", "accuracy", AFTER, ""),
            ("labelers, with the consensus", "labeler_agreement", NEUTRAL, "//"),
        )
        if _finite(reward, key)
    ]
    if not rows:
        return ""
    figure, axes = _figure(0.75 + 0.42 * len(rows))
    for place, (_, key, colour, hatch) in enumerate(rows[::-1]):
        end = share = reward[key]
        axes.barh(place, share, 0.62, color=colour, alpha=0.75, hatch=hatch, edgecolor=_INK, lw=0)
        if _finite(reward, f"{key}_low", f"{key}_high"):
            end = max(share, reward[f"{key}_high"])
            axes.plot([reward[f"{key}_low"], end], [place] * 2, color=_INK, lw=2)
        at, shift = (end, place), (5, 0)
        axes.annotate(f"{share:.1%}", at, shift, "data", "offset points", va="center", color=_INK)
    axes.axvline(0.5, color=_INK, lw=0.9, ls=":")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows[::-1]])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(
        xlim=(0, 1.2),
        xticks=[0, 0.25, 0.5, 0.75, 1],
        xlabel="pairs ordered rightly (dotted: guessing)",
    )
    return _svg(figure, "accuracy", "Reward model accuracy beside labeler agreement")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    """Axes without a box, in the page's text colour, with a faint grid behind the data."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set(color=_INK, alpha=0.45, lw=0.8)
    axes.tick_params(colors=_INK, labelsize=9, length=3)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(color=_INK, alpha=0.09, lw=0.8)
    axes.set_axisbelow(True)


def _legend(axes: Axes, place: Literal["best", "upper left"] = "best") -> None:
    legend = axes.legend(loc=place, frameon=False, labelcolor=_INK, fontsize=9, handlelength=1.8)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(name: str, longest: int = 28) -> str:
    """A name from outside, on one line and of a length that leaves room for the figure."""
    name = visible(" ".join(name.split()))
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _labeler(row: dict[str, Any]) -> str:
    kind = f" ({row['kind']})" if row.get("kind") else ""
    return _label(f"{row['labeler_id']}{kind}") + (" · flagged" if row.get("flagged") else "")


def _reliability(row: dict[str, Any]) -> float:
    return row["reliability"]


def _words(key: str) -> str:
    return {"eval_reward": "held-out", "reward": "rollouts"}.get(key, key.replace("_", " "))


def _finite(row: dict[str, Any], *keys: str) -> bool:
    """Whether all of `keys` hold finite numbers."""
    return all(
        isinstance(row.get(key), (int, float, np.number)) and math.isfinite(row[key])
        for key in keys
    )


def _series(
    rows: Iterable[dict[str, Any]], steps: Iterable[float], key: str
) -> tuple[str, list[float], list[float]] | None:
    """Key, iterations and values of the rows that hold a number; None where none does."""
    points = [(s, row[key]) for s, row in zip(steps, rows, strict=True) if _finite(row, key)]
    return (key, [s for s, _ in points], [value for _, value in points]) if points else None


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an inline SVG element: scalable, in the page's colours, with ids of its own."""
    buffer = io.StringIO()
    with _LOCK, mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph"
        )  # the browser has the letters, if we do not
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", transparent=True, dpi=200)
    svg = buffer.getvalue()
    for pattern in (r"^.*?(?=<svg)", r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        svg = re.sub(pattern, "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<[^<>]+>", lambda tag: _rewrite_tag(tag[0], name), svg)
    label = escape(visible(description))
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" class="plot"', 1)


def _rewrite_tag(tag: str, name: str) -> str:
    """One tag of matplotlib's SVG for use inside a page. Text between tags is left alone."""
    tag = re.sub(r'((?: id="|href="#|url\(#))', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag).replace("<svg", '<svg width="100%"')
    return tag.replace(_INK, "currentColor")
