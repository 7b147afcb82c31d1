"""The lines of the report's tables: which figures there are, what they mean, and how they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from alignment.evaluation.bootstrap import Interval
from alignment.evaluation.compare import (
    DIVERSITY_KEPT,
    PERPLEXITY_RISE,
    PROBE_RISE,
    SELF_BLEU_RISE,
    SHARE_RISE,
    Comparison,
    ModelSummary,
)
from alignment.evaluation.evaluation import Evaluation
from alignment.evaluation.verdict import BETTER, WORSE

TOXICITY = {
    "toxicity": "mean",
    "over_threshold": "over_threshold",
    "expected_max_toxicity": "expected_max",
    "toxicity_probability": "probability",
}
_JSON_NAMES = {"mean_length": "length"}
_ROUGE_NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `field`: its name in `ModelSummary`; for ROUGE `rouge.KIND`.

    `wanted`: -1 where lower is better, 1 where higher is, 0 where neither. `tolerated`: a change up to this is
    marked neither good nor bad; in points for a share, in percent for other figures.
    """

    field: str
    label: str
    meaning: str
    style: str
    wanted: int
    tolerated: float = 0.0

    def value(self, summary: ModelSummary) -> Interval | float | None:
        """The figure of one model."""
        name, _, kind = self.field.partition(".")
        value = getattr(summary, name)
        return value[kind] if kind else value

    def path(self, model: str, scorer: str, end: str = "") -> str:
        """Where the figure, or with `end` the `low` or `high` end of its interval, stands in `comparison.json`."""
        place = {"low": "0", "high": "1"}.get(end, "")
        if self.field in TOXICITY:
            name = TOXICITY[self.field]
            last = (
                [end or name] if name == "mean" else ["intervals", name, place] if end else [name]
            )
            return json_path("models", model, "toxicity", scorer, *last)
        name = _JSON_NAMES.get(self.field, self.field)
        keys = [f"{name}_interval", place] if end else name.split(".")
        return json_path("models", model, *keys)


def json_path(*keys: str) -> str:
    """The keys that lead to a value in `comparison.json`; names of models and scorers may hold dots and slashes."""
    return "::".join(keys)


def figures_of(found: Evaluation) -> list[Figure]:
    """What the table lists, with the settings of this evaluation in the explanations; undefined figures left out."""
    summaries = [ModelSummary.of(model, found.card().name) for model in found.models]
    return [figure for figure in _all(found) if any(figure.value(s) is not None for s in summaries)]


def _all(found: Evaluation) -> Iterator[Figure]:
    k, threshold = found.completions_per_prompt, found.settings.threshold
    points, words = 100 * SHARE_RISE, 100 * (1 - DIVERSITY_KEPT)
    yield Figure("toxicity", "Mean toxicity", "mean score of all completions", "score", -1)
    toxic = f"share that scores {threshold:g} or more"
    yield Figure("over_threshold", "Toxic completions", toxic, "share", -1)
    highest = f"highest score among {k} completions of a prompt, on average"
    yield Figure("expected_max_toxicity", "Expected maximum toxicity", highest, "score", -1)
    chance = f"chance that at least one of {k} completions of a prompt is toxic"
    yield Figure("toxicity_probability", "Toxicity probability", chance, "share", -1)
    yield Figure("kl", "KL", f"from {found.reference}, nats per completion", "number", 0)
    yield Figure(
        "perplexity",
        "Perplexity",
        f"of the completions, under {found.reference}",
        "number",
        -1,
        100 * PERPLEXITY_RISE,
    )
    for field, label, what, size in (
        ("distinct_1", "Distinct words", "distinct-1", found.distinct_sizes[0]),
        ("distinct_2", "Distinct word pairs", "distinct-2", found.distinct_sizes[1]),
    ):
        meaning = f"{what}, all models at {size:,} n-grams"
        yield Figure(field, label, meaning, "score", 1, words)
    bleu = "BLEU of a completion against all the others: high where they say the same"
    yield Figure("self_bleu", "Self-BLEU", bleu, "share", -1, 100 * SELF_BLEU_RISE)
    said = "share of 4-grams that a completion has said before"
    yield Figure("repetition", "Repetition", said, "share", -1, points)
    yield Figure("mean_length", "Length", f"{found.length_unit} per completion", "number", 0)
    yield Figure("unfinished", "Unfinished", "cut off at the length limit", "share", -1, points)
    yield Figure("empty", "Empty", "completions that say nothing", "share", -1, points)
    yield Figure("refusals", "Refusals", "completions that decline to answer", "share", -1, points)
    if found.models[0].rouge is not None:
        for kind, label in _ROUGE_NAMES.items():
            meaning = "F-score against the best reference of the prompt"
            yield Figure(f"rouge.{kind}", label, meaning, "score", 1)
    loss = "on the held-out general text, bits per byte"
    yield Figure("probe_loss", "Loss on general text", loss, "score", -1, 100 * PROBE_RISE)


def shown(value: float | None, style: str) -> str:
    """A figure as people read it: `score` .xxx, `share` and `change` in percent, `number` to two digits or so."""
    if value is None:
        return "–"
    if style == "share":
        text = f"{value:.1%}"
    elif style == "change":
        text = f"{value:+.0%}"
    elif style == "signed":
        text = f"{value:+.3f}"
    elif style == "p":
        text = f"{value:.4f}" if value >= 0.0001 else "< 0.0001"
    else:
        text = f"{value:.3f}" if style == "score" else f"{value:,.2f}"
    return text.replace("-", "−")


def figure_tag(value: Interval | float | None, style: str, path: str) -> Markup:
    """A figure as `<data>`: rounded for the reader, in full and by its place in the JSON for a program."""
    number = value.mean if isinstance(value, Interval) else value
    if number is None:
        return Markup("–")
    return data_tag(number, path, shown(number, style))


def data_tag(number: float, path: str, text: str) -> Markup:
    """A number as `<data>`, read as `text`; `path`: its place in the JSON."""
    return Markup('<data value="{}" data-figure="{}">{}</data>').format(
        repr(float(number)), path, text
    )


def change_of(comparison: Comparison, figure: Figure) -> tuple[str, str]:
    """How a figure moved, in words, and whether that is `good`, `bad` or `even`.

    Toxicity counts as good or bad only where the verdict says that there is a difference.
    """
    before, after = (
        value.mean if isinstance(value, Interval) else value
        for value in (figure.value(side) for side in (comparison.before, comparison.after))
    )
    if before is None or after is None:
        return "", "even"
    relative = figure.style != "share" and before > 0
    moved = 100 * (after / before - 1 if relative else after - before)
    text = f"{moved:+.0f}%" if relative else f"{moved:+.1f} points"
    if figure.style == "number" and not relative:
        text = f"{after - before:+.2f}"
    if abs(moved) < (0.5 if relative else 0.05):
        return "unchanged", "even"
    unsure = figure.field in TOXICITY and comparison.verdict not in (BETTER, WORSE)
    gain = figure.wanted * moved
    tone = "good" if gain > 0 else "bad"
    if unsure or abs(gain) <= figure.tolerated:
        tone = "even"
    return text.replace("-", "−"), tone
