"""The evaluation as Markdown (figures and the worst prompts) and as CSV (every completion)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from alignment.evaluation import reward_table
from alignment.evaluation.bootstrap import Interval
from alignment.evaluation.compare import ModelSummary
from alignment.evaluation.evaluation import Evaluation
from alignment.evaluation.material import Material
from alignment.evaluation.report_table import figures_of, shown
from alignment.records import text_of

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take such a cell for a formula


def markdown(
    found: Evaluation,
    reviews: list[dict[str, Any]],
    people: list[dict[str, Any]],
    evidence: dict[str, Any] | None = None,
) -> str:
    """The figures of `comparison.json` for a page of text or a model card. Completions are not quoted.

    `evidence`: that of the rewards behind the candidate (`reward_evidence`).
    """
    return "\n".join([*_lines(found, reviews, people), *_evidence(evidence)]) + "\n"


def _lines(
    found: Evaluation, reviews: list[dict[str, Any]], people: list[dict[str, Any]]
) -> Iterator[str]:
    main = found.comparison()
    yield from (
        "## Before and after alignment",
        "",
        f"**{main.verdict.capitalize()}.** {main.headline}",
        "",
    )
    if main.concerns:
        yield from ("At what price:", "", *(f"- {concern}" for concern in main.concerns), "")
    yield from ("### Toxicity by each scorer", "")
    yield from reward_table.head(
        "model",
        "scorer",
        "before",
        "after",
        "difference",
        "95% interval",
        "p",
        "reduction",
        "finding",
    )
    for name, pair in found.pairs.items():
        for card in found.scorers:
            change = pair.scorers[card.name]
            before, after = (
                found.model(m).toxicity[card.name].mean.mean for m in (found.reference, name)
            )
            yield reward_table.row(
                name,
                card.name,
                shown(before, "score"),
                shown(after, "score"),
                shown(change.difference.mean, "signed"),
                f"{shown(change.difference.low, 'signed')} to {shown(change.difference.high, 'signed')}",
                shown(change.p_value, "p"),
                shown(change.reduction.mean if change.reduction else None, "share"),
                f"{change.verdict}, but it trained the policy"
                if card.trained_policy
                else change.verdict,
            )
    yield from ("", f"### Every figure, toxicity by {found.card().name}", "")
    yield from reward_table.head("figure", *(model.name for model in found.models))
    summaries = [ModelSummary.of(model, found.card().name) for model in found.models]
    for figure in figures_of(found):
        values = [figure.value(summary) for summary in summaries]
        numbers = [v.mean if isinstance(v, Interval) else v for v in values]
        yield reward_table.row(
            f"{figure.label} ({figure.meaning})", *(shown(n, figure.style) for n in numbers)
        )
    yield from _categories(found)
    yield from _people(people, reviews)
    yield from ("", "### How it was measured", "")
    for card in found.scorers:
        yield f"- Scorer {card.name}. {card.blind_spots}"
    settings = found.settings
    yield (
        f"- {found.prompts} prompts, at least {found.completions_per_prompt} completions of each and model; "
        f"toxic from {settings.threshold:g} on; 95% intervals from {settings.resamples} bootstrap resamples; "
        f"permutation test of {settings.permutations} swaps; seed {settings.seed}."
    )
    yield from (f"- {note}" for note in found.notes)


def _categories(found: Evaluation) -> Iterator[str]:
    changes = found.pairs[found.candidate].categories
    if not changes:
        return
    yield from ("", f"### By category of prompts, {found.candidate}", "")
    yield from reward_table.head(
        "category", "prompts", "scorer", "before", "after", "difference", "95% interval"
    )
    for category, scorers in changes.items():
        for name, change in scorers.items():
            before, after = (
                found.model(m).categories[category][name].mean.mean
                for m in (found.reference, found.candidate)
            )
            yield reward_table.row(
                category,
                str(change.prompts),
                name,
                shown(before, "score"),
                shown(after, "score"),
                shown(change.difference.mean, "signed"),
                f"{shown(change.difference.low, 'signed')} to {shown(change.difference.high, 'signed')}",
            )


def _people(people: list[dict[str, Any]], reviews: list[dict[str, Any]]) -> Iterator[str]:
    if people:
        yield from (
            "",
            "### People, side by side and blind",
            "",
            *(f"- {row['finding']}" for row in people),
        )
    if reviews:
        yield from ("", "### Verdicts", "")
        for review in reviews:
            comment = " ".join(review["comment"].split())
            yield (
                f"- **{review['verdict']}**, {review['reviewer']}, {review['created']}"
                + (f": {reward_table.cell(comment)}" if comment else "")
            )


def _evidence(evidence: dict[str, Any] | None) -> Iterator[str]:
    if evidence is None:
        return
    yield from ("", "### Reward model", "")
    yield from (f"- {reward_table.cell(note)}" for note in evidence["notes"])
    for model in evidence["models"]:
        yield from (
            "",
            f"{reward_table.cell(model['name'])}:",
            "",
            *reward_table.markdown(model["trust"]),
        )
        yield from (
            "",
            *(f"- {reward_table.cell(message)}" for message in model["result"]["messages"]),
        )


def csv_table(found: Evaluation, material: Material) -> str:
    """Every completion of every model with its scores, one a line. Cells that look like formulas are made text."""
    out = io.StringIO()
    writer = csv.writer(out)
    names = [card.name for card in found.scorers]
    writer.writerow(
        ["prompt_id", "category", "prompt", "model", "completion_id", "completion", "finished"]
        + [f"toxicity {name}" for name in names]
    )
    prompts: Mapping[str, Any] = {p.prompt_id: p for p in material.prompts}
    for place, model in enumerate(material.models):
        for i, c in enumerate(model.completions):
            prompt = prompts[c.prompt_id]
            cells = [c.prompt_id, prompt.category or "", text_of(prompt.prompt), model.name]
            cells += [c.completion_id, c.text]
            scores = [repr(float(material.scores[name][place][i])) for name in names]
            writer.writerow([*(map(_safe, cells)), str(c.finished).lower(), *scores])
    return out.getvalue()


def _safe(cell: str) -> str:
    text = cell.encode("utf-8", "replace").decode()
    return "'" + text if text.startswith(_DANGEROUS) else text
