"""The evaluation as one HTML file: no script, no network, every text escaped, every figure that of the JSON.

The page carries a content security policy that forbids scripts and all loading, so that a completion cannot do harm
even if escaping failed. What can be folded, filtered or revealed works by CSS alone.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from alignment import __version__
from alignment.errors import InputError
from alignment.evaluation import plots, report_table, tables
from alignment.evaluation.compare import (
    Comparison,
    ModelSummary,
    PromptRow,
    ScoredCompletion,
)
from alignment.evaluation.evaluation import Evaluation
from alignment.evaluation.material import Material
from alignment.evaluation.plots import visible
from alignment.evaluation.reward_evidence import EVIDENCE_FILE
from alignment.evaluation.reward_page import reward_section
from alignment.evaluation.templates import page_templates
from alignment.evaluation.verdict import (
    BETTER,
    DISAGREE,
    NOT_INDEPENDENT,
    SAME_TOXICITY,
    TOO_FEW,
    UNCLEAR,
    WORSE,
)
from alignment.files import write_json, write_text

HTML_FILE, MARKDOWN_FILE, CSV_FILE = "report.html", "report.md", "completions.csv"
SHOWN_WORST, SHOWN_BEST = 140, 60  # a page with more is slow to open; all of them are in the CSV
SHOWN_PROMPTS = SHOWN_WORST + SHOWN_BEST
OPEN_PROMPTS = 3
CARDS = (
    "toxicity",
    "over_threshold",
    "toxicity_probability",
    "kl",
    "perplexity",
    "distinct_2",
    "self_bleu",
    "unfinished",
    "refusals",
)
_LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "numpy",
    "scikit-learn",
    "alt-profanity-check",
    "rouge-score",
)
VERDICTS = {
    BETTER: "Better",
    WORSE: "Worse",
    UNCLEAR: "No clear difference",
    TOO_FEW: "Too few prompts",
    DISAGREE: "The scorers disagree",
    NOT_INDEPENDENT: "Not shown: no independent scorer",
}
_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Background:
    """What is known about how the policy came to be, and what people said of the evaluation.

    `training`: rows that PPO logged (`plots.TRAINING_PANELS` names the keys). `consensus`: `labelers` as for
    `plots.labeler_reliability`, and any single figures. `reward`: as for `plots.reward_accuracy`, and any single
    figures. `runs`: the runs behind the evaluation, as their `to_json` gives them. `reviews`: `verdict`, `reviewer`,
    `created` and `comment` of each. `people`: the blind rounds, each with a `finding` in words. `evidence`: the trust
    figures of the reward models that rewarded the candidate, as `reward_evidence.evidence_behind` gives them.
    """

    training: list[dict[str, Any]] | None = None
    consensus: dict[str, Any] | None = None
    reward: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    reviews: list[dict[str, Any]] = field(default_factory=list)
    people: list[dict[str, Any]] = field(default_factory=list)
    evidence: dict[str, Any] | None = None


def write_reports(
    folder: Path,
    found: Evaluation,
    material: Material,
    background: Background | None = None,
    *,
    html_name: str = HTML_FILE,
) -> list[Path]:
    """Write the evaluation as one self-contained HTML file, as Markdown and as CSV beside it; returns their paths.

    What is known of the rewards behind the candidate lies beside them as `reward_model.json`.
    Markdown and CSV take the name of the HTML file where it is another one than usual. Raises `InputError` where the
    path cannot be written, or where the page would be overwritten by the others.
    """
    page = Path(folder) / html_name
    if page.is_dir():
        raise InputError(
            f"{page} is a folder. Give the name of a file, such as {page / HTML_FILE}."
        )
    if page.suffix.lower() in (".md", ".csv"):
        raise InputError(
            f"{page} is the page, beside which Markdown and CSV are written. End its name in .html: "
            f"{page.with_suffix('.html').name}."
        )
    background = background or Background()
    usual = html_name == HTML_FILE
    texts = {
        page: render_report(found, material, background),
        page.with_name(MARKDOWN_FILE) if usual else page.with_suffix(".md"): tables.markdown(
            found, background.reviews, background.people, background.evidence
        ),
        page.with_name(CSV_FILE) if usual else page.with_suffix(".csv"): tables.csv_table(
            found, material
        ),
    }
    for path, text in texts.items():
        write_text(path, text)
    if background.evidence is not None:
        write_json(page.with_name(EVIDENCE_FILE), background.evidence)
        return [*texts, page.with_name(EVIDENCE_FILE)]
    return list(texts)


def render_report(
    found: Evaluation,
    material: Material,
    background: Background | None = None,
    *,
    title: str = "Before and after alignment",
) -> str:
    """The text of the HTML page."""
    background = background or Background()
    comparison = found.comparison(material)
    rows, left_out = shown_rows(comparison.worst_first())
    categories = list(dict.fromkeys(row.category or "other" for row in rows))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            found=found,
            comparison=comparison,
            scorer=comparison.scorer,
            summaries=[ModelSummary.of(model, comparison.scorer) for model in found.models],
            verdict=VERDICTS[comparison.verdict],
            tone=comparison.verdict.replace(" ", "-"),
            scale=_scale(comparison),
            figures=report_table.figures_of(found),
            cards=CARDS,
            drawings=list(_drawings(found, comparison, background)),
            rows=rows,
            left_out=left_out,
            categories=categories if len(categories) > 1 else [],
            open_prompts=OPEN_PROMPTS,
            facts={
                "Consensus": _scalars(background.consensus),
                "Reward model": _scalars(background.reward),
            },
            runs=background.runs,
            reviews=background.reviews,
            people=background.people,
            evidence=background.evidence,
            sections=[
                (
                    model["name"],
                    reward_section(model["trust"], model["result"], ("models", n, "trust")),
                )
                for n, model in enumerate((background.evidence or {"models": []})["models"])
            ],
            versions=_versions(),
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def shown_rows(rows: Sequence[PromptRow]) -> tuple[list[PromptRow], int]:
    """Of rows with the worst first: all, or the worst and the best of many; and how many are left out."""
    if len(rows) <= SHOWN_PROMPTS:
        return list(rows), 0
    return [*rows[:SHOWN_WORST], *rows[-SHOWN_BEST:]], len(rows) - SHOWN_PROMPTS


@cache
def _environment() -> Environment:
    environment = page_templates()
    environment.filters.update(
        shown=report_table.shown, figure=report_table.figure_tag, flat=_flat, marked=marked
    )
    environment.filters["place"] = place
    environment.globals.update(change=report_table.change_of, path=report_table.json_path)
    return environment


def place(source: str) -> str:
    """A hub id as it is, of a path the last part: a report that is passed on names no folder of its maker's."""
    path = Path(source)
    return source if len(path.parts) <= 2 and not path.is_absolute() else path.name


def marked(completion: ScoredCompletion) -> Markup:
    """The completion's text, escaped, with its toxic words in `<mark>`."""
    pieces, at = [], 0
    for start, end in completion.spans:
        pieces.append(escape(visible(completion.text[at:start])))
        pieces.append(Markup("<mark>{}</mark>").format(visible(completion.text[start:end])))
        at = end
    pieces.append(escape(visible(completion.text[at:])))
    return Markup("").join(pieces)


def _drawings(
    found: Evaluation, comparison: Comparison, background: Background
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
    if len(points := trade_off(found)) > 1:
        yield (
            "What it cost in KL",
            f"Toxicity against the distance from {found.reference}, for each model. Lower left is better.",
            Markup(plots.toxicity_versus_kl(points)),
        )
    if svg := plots.training_curves(background.training or []):
        yield (
            "Training",
            "What PPO logged. A reward that rises while KL runs away is over-optimisation.",
            Markup(svg),
        )
    if svg := plots.labeler_reliability((background.consensus or {}).get("labelers") or []):
        yield (
            "Labelers",
            "How well each labeler's rankings follow the common order, with 95% intervals.",
            Markup(svg),
        )
    if svg := plots.reward_accuracy({} if background.evidence else background.reward or {}):
        yield (
            "Reward model",
            "How often it orders held-out pairs as the consensus does, and how often the labelers do.",
            Markup(svg),
        )


def trade_off(found: Evaluation) -> list[dict[str, Any]]:
    """Points for the trade-off plot: the models whose KL is known, with toxicity by the main scorer."""
    scorer = found.card().name
    points = []
    for model in found.models:
        if model.kl is None:
            continue
        mean = model.toxicity[scorer].mean
        ends = {"toxicity": mean.mean, "low": mean.low, "high": mean.high}
        points.append({"name": model.name, "kl": model.kl.mean, **ends})
    return points


def _scale(comparison: Comparison) -> float:
    """The right end of the bars in the heading: the least round number that holds both intervals."""
    most = max(comparison.before.toxicity.high, comparison.after.toxicity.high)
    return next(scale for scale in _SCALES if most <= scale or scale == 1.0)


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
