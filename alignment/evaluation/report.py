"""The comparison as one HTML file: no script, no network, every text escaped, every figure that of the JSON.

The page carries a content security policy that forbids scripts and all loading, so that a completion cannot do harm
even if escaping failed. What can be folded, filtered or revealed works by CSS alone.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignment import __version__
from alignment.errors import InputError
from alignment.evaluation import plots
from alignment.evaluation.compare import (
    BETTER,
    DIVERSITY_KEPT,
    PERPLEXITY_RISE,
    SAME_TOXICITY,
    SHARE_RISE,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    Comparison,
    Interval,
)
from alignment.evaluation.plots import visible
from alignment.files import write_text

SHOWN_PROMPTS = 200  # a page with more is slow to open; all of them are in the JSON
OPEN_PROMPTS = 3
_LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "numpy",
    "scikit-learn",
    "alt-profanity-check",
)
_VERDICTS = {
    BETTER: "Better",
    WORSE: "Worse",
    UNCLEAR: "No clear difference",
    TOO_FEW: "Too few prompts",
}
_TOXICITY = ("toxicity", "over_threshold", "expected_max_toxicity", "toxicity_probability")
_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a figure of both models. `field`: its name in `ModelSummary` and in the JSON.

    `wanted`: -1 where lower is better, 1 where higher is, 0 where neither. `tolerated`: a change up to this is
    marked neither good nor bad; in points for a share, in percent for other figures.
    """

    field: str
    label: str
    meaning: str
    style: str
    wanted: int
    tolerated: float = 0.0


def write_report(
    path: Path,
    comparison: Comparison,
    *,
    title: str = "Before and after alignment",
    training: list[dict[str, Any]] | None = None,
    consensus: dict[str, Any] | None = None,
    reward: dict[str, Any] | None = None,
    runs: list[dict[str, Any]] | None = None,
) -> Path:
    """Write the comparison as one self-contained HTML file and return its path.

    `training`: rows that PPO logged (`plots.TRAINING_PANELS` names the keys). `consensus`: `labelers` as for
    `plots.labeler_reliability`, and any single figures. `reward`: as for `plots.reward_accuracy`, and any single
    figures. `runs`: the runs behind the comparison, as their `to_json` gives them.
    Raises `InputError` where the path cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder. Give the name of a file, such as {path / 'report.html'}."
        )
    page = render_report(
        comparison, title=title, training=training, consensus=consensus, reward=reward, runs=runs
    )
    write_text(path, page)
    return path


def render_report(
    comparison: Comparison,
    *,
    title: str = "Before and after alignment",
    training: list[dict[str, Any]] | None = None,
    consensus: dict[str, Any] | None = None,
    reward: dict[str, Any] | None = None,
    runs: list[dict[str, Any]] | None = None,
) -> str:
    """The text of the page that `write_report` writes."""
    rows = comparison.worst_first()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            comparison=comparison,
            verdict=_VERDICTS[comparison.verdict],
            tone=comparison.verdict.replace(" ", "-"),
            scale=_scale(comparison),
            figures=list(_figures(comparison)),
            drawings=list(_drawings(comparison, training, consensus, reward, runs)),
            rows=rows[:SHOWN_PROMPTS],
            left_out=len(rows) - SHOWN_PROMPTS,
            open_prompts=OPEN_PROMPTS,
            facts={"Consensus": _scalars(consensus), "Reward model": _scalars(reward)},
            runs=runs or [],
            versions=_versions(),
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=_shown, figure=_figure, flat=_flat)
    environment.globals.update(change=_change)
    return environment


def _figures(comparison: Comparison) -> Iterator[Figure]:
    """What the table lists, with the settings of this comparison in the explanations."""
    k, threshold = comparison.completions_per_prompt, comparison.threshold
    yield Figure("toxicity", "Mean toxicity", "mean score of all completions", "score", -1)
    yield Figure(
        "over_threshold",
        "Toxic completions",
        f"share that scores {threshold:g} or more",
        "share",
        -1,
    )
    yield Figure(
        "expected_max_toxicity",
        "Expected maximum toxicity",
        f"highest score among {k} completions of a prompt, on average",
        "score",
        -1,
    )
    yield Figure(
        "toxicity_probability",
        "Toxicity probability",
        f"chance that at least one of {k} completions of a prompt is toxic",
        "share",
        -1,
    )
    if comparison.before.perplexity is not None or comparison.after.perplexity is not None:
        yield Figure(
            "perplexity",
            "Perplexity",
            "of the completions, under the base model",
            "number",
            -1,
            100 * PERPLEXITY_RISE,
        )
    for field, label, what, size in (
        ("distinct_1", "Distinct words", "distinct-1", comparison.distinct_sizes[0]),
        ("distinct_2", "Distinct word pairs", "distinct-2", comparison.distinct_sizes[1]),
    ):
        yield Figure(
            field,
            label,
            f"{what}, both at {size:,} n-grams",
            "score",
            1,
            100 * (1 - DIVERSITY_KEPT),
        )
    yield Figure(
        "repetition",
        "Repetition",
        "share of 4-grams that a completion has said before",
        "share",
        -1,
    )
    yield Figure("mean_length", "Length", f"{comparison.length_unit} per completion", "number", 0)
    yield Figure(
        "unfinished", "Unfinished", "cut off at the length limit", "share", -1, 100 * SHARE_RISE
    )
    yield Figure("empty", "Empty", "completions that say nothing", "share", -1, 100 * SHARE_RISE)


def _drawings(
    comparison: Comparison,
    training: list[dict[str, Any]] | None,
    consensus: dict[str, Any] | None,
    reward: dict[str, Any] | None,
    runs: list[dict[str, Any]] | None,
) -> Iterator[tuple[str, str, Markup]]:
    """Heading, explanation and SVG of each plot that there is something to draw for."""
    names = comparison.before.name, comparison.after.name
    rows = comparison.prompts
    scores = [[c.toxicity for row in rows for c in getattr(row, s)] for s in ("before", "after")]
    yield (
        "How toxic the completions are",
        "Each model's completions by their score. Good alignment moves mass to the left.",
        Markup(plots.toxicity_distribution(*scores, names=names, threshold=comparison.threshold)),
    )
    yield (
        "Prompt by prompt",
        "Each mark is a prompt. Below the dotted line it got less toxic, in the shaded half more.",
        Markup(
            plots.prompt_scatter(
                [row.before_mean for row in rows],
                [row.after_mean for row in rows],
                names,
                SAME_TOXICITY,
            )
        ),
    )
    if points := _trade_off(runs or []):
        yield (
            "What it cost in KL",
            "Toxicity against the distance from the reference model. Lower left is better.",
            Markup(plots.toxicity_versus_kl(points)),
        )
    if svg := plots.training_curves(training or []):
        yield (
            "Training",
            "What PPO logged. A reward that rises while KL runs away is over-optimisation.",
            Markup(svg),
        )
    if svg := plots.labeler_reliability((consensus or {}).get("labelers") or []):
        yield (
            "Labelers",
            "How well each labeler's rankings follow the common order, with 95% intervals.",
            Markup(svg),
        )
    if svg := plots.reward_accuracy(reward or {}):
        yield (
            "Reward model",
            "How often it orders held-out pairs as the consensus does, and how often the labelers do.",
            Markup(svg),
        )


def _trade_off(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points for the trade-off plot: the runs whose metrics hold both `kl` and `toxicity`."""
    points = []
    for run in runs:
        metrics = run.get("metrics") or {}
        toxicity = metrics.get("toxicity")
        if toxicity is None or metrics.get("kl") is None:
            continue
        figures = toxicity if isinstance(toxicity, dict) else {"mean": toxicity}
        ends = {key: figures.get(key) for key in ("low", "high")}
        point = {"name": str(run.get("run_id", "")), "toxicity": figures.get("mean")}
        points.append(point | ends | {"kl": metrics["kl"]})
    return points


def _scale(comparison: Comparison) -> float:
    """The right end of the bars in the heading: the least round number that holds both intervals."""
    most = max(comparison.before.toxicity.high, comparison.after.toxicity.high)
    return next(scale for scale in _SCALES if most <= scale or scale == 1.0)


def _shown(value: float | None, style: str) -> str:
    """A figure as people read it: `score` .xxx, `share` and `change` in percent, `number` to two digits or so."""
    if value is None:
        return "–"
    if style == "share":
        text = f"{value:.1%}"
    elif style == "change":
        text = f"{value:+.0%}"
    elif style == "signed":
        text = f"{value:+.3f}"
    else:
        text = f"{value:.3f}" if style == "score" else f"{value:,.2f}"
    return text.replace("-", "−")


def _figure(value: Interval | float | None, style: str, name: str) -> Markup:
    """A figure as `<data>`: rounded for the reader, in full and by its name in the JSON for a program."""
    number = value.mean if isinstance(value, Interval) else value
    if number is None:
        return Markup("–")
    return Markup('<data value="{}" data-figure="{}">{}</data>').format(
        repr(float(number)), name, _shown(number, style)
    )


def _change(comparison: Comparison, figure: Figure) -> tuple[str, str]:
    """How a figure moved, in words, and whether that is `good`, `bad` or `even`.

    Toxicity counts as good or bad only where the verdict says that there is a difference.
    """
    before, after = (
        value.mean if isinstance(value, Interval) else value
        for value in (getattr(side, figure.field) for side in (comparison.before, comparison.after))
    )
    if before is None or after is None:
        return "", "even"
    relative = figure.style != "share" and before > 0
    moved = 100 * (after / before - 1 if relative else after - before)
    text = f"{moved:+.0f}%" if relative else f"{moved:+.1f} points"
    if abs(moved) < (0.5 if relative else 0.05):
        return "unchanged", "even"
    unsure = figure.field in _TOXICITY and comparison.verdict not in (BETTER, WORSE)
    gain = figure.wanted * moved
    tone = "good" if gain > 0 else "bad"
    if unsure or abs(gain) <= figure.tolerated:
        tone = "even"
    return text.replace("-", "−"), tone


def _scalars(facts: dict[str, Any] | None) -> dict[str, str]:
    """The single figures and words of a dictionary, for a list of facts."""
    kept = {}
    for key, value in (facts or {}).items():
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, float):
            kept[key.replace("_", " ")] = f"{value:.4g}"
        elif isinstance(value, (int, str)):
            kept[key.replace("_", " ")] = str(value)
    return kept


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested dictionary as dotted keys and words; long lists are counted and cut."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            more = f" … ({len(value)} in all)" if len(value) > 8 else ""
            flat[name] = ", ".join(str(item) for item in value[:8]) + more
        elif value is not None:
            flat[name] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return flat


def _versions() -> dict[str, str]:
    """The versions in force where the report was written."""
    found = {"Concord": __version__, "Python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
