"""The lines of a reward model's trust figures, for its page, its card and the report: one text, the same numbers.

A text names figures by their place in `trust.json` and how they read: `{log_loss.before:number}`. Who shows it says how
a figure is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from alignment.evaluation.report_table import shown

_FIGURE = re.compile(r"\{([\w.]+):(\w+)\}")
_STYLES = {"number": "score", "share": "share"}  # as `report_table.shown` calls them


@dataclass(frozen=True, slots=True)
class Value:
    """A figure by the keys that lead to it. `style`: share (with its interval where it has one), number or count."""

    path: tuple[str | int, ...]
    style: str = "number"

    def of(self, trust: dict[str, Any]) -> Any:
        found: Any = trust
        for key in self.path:
            found = found[key]
        return found


Draw = Callable[[Value], str]
Cell = str | Value
_LINES = (
    (
        "Accuracy on held-out pairs",
        "{accuracy:share}",
        "{held_out_pairs:count} pairs of {held_out_prompts:count} prompts that it has not seen, 95% interval over "
        "prompts",
    ),
    (
        "Ceiling: trusted labelers",
        "{ceiling:share}",
        "how often a trusted labeler's votes go with the consensus of all the others on these prompts: what a model "
        "can hope for",
    ),
    (
        "With their own vote in it",
        "{ceiling_own_consensus:share}",
        "trusted labelers against the consensus that they helped to make; all labelers {ceiling_all_labelers:share}",
    ),
    (
        "Log loss",
        "{log_loss.after:number}",
        "nats; {log_loss.before:number} before temperature scaling (T = {temperature:number}), the labels' own entropy "
        "is {log_loss.of_labels:number}",
    ),
    (
        "Expected calibration error",
        "{calibration.ece:number}",
        "{calibration.ece_before:number} before temperature scaling",
    ),
    (
        "Length bias",
        "{length_bias.correlation:number}",
        "correlation of score and length within a prompt; {length_bias.labels:number} in the labels, "
        "{length_bias.corrected:number} after taking off {length_bias.slope:number} per token",
    ),
    (
        "Position bias",
        "{position_bias.correlation:number}",
        "correlation of score and place on the labelers' screen; {position_bias.labels:number} in the labels, "
        "{position_bias.corrected:number} after correction",
    ),
    (
        "Scores",
        "{scores.mean:number} ± {scores.std:number}",
        "mean and standard deviation on the training completions, by which PPO normalises",
    ),
)
_UNCERTAINTY = (
    "Uncertainty",
    "{uncertainty.accuracy_surer_half:number} / {uncertainty.accuracy_other_half:number}",
    "accuracy on the half of the pairs of which the heads are surer, and on the other half",
)


def lines(trust: dict[str, Any], draw: Draw) -> list[tuple[str, str, str]]:
    """Name, figure and meaning of each line, the figures as `draw` gives them."""
    found = [*_LINES, _UNCERTAINTY] if trust["uncertainty"] else _LINES
    return [
        (name, filled(figure, trust, draw), filled(meaning, trust, draw))
        for name, figure, meaning in found
    ]


def filled(text: str, trust: dict[str, Any], draw: Draw) -> str:
    """The text with its figures drawn."""

    def figure(match: re.Match[str]) -> str:
        return draw(Value(tuple(match[1].split(".")), match[2]))

    return _FIGURE.sub(figure, text)


def tables(trust: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], list[list[Cell]]]]:
    """Title, columns and rows of what has more than one figure; tables without a row are left out."""
    for key, title, first, count in (
        ("by_margin", "Accuracy by how sure the consensus is", "range", "pairs"),
        ("by_prompt_length", "Accuracy by prompt length", "range", "pairs"),
        ("by_labeler_group", "Agreement with each group of labelers", "group", "votes"),
    ):
        if trust[key]:
            rows: list[list[Cell]] = [
                [row[first], Value((key, n, count), "count"), Value((key, n, "accuracy"), "share")]
                for n, row in enumerate(trust[key])
            ]
            yield title, (first, count, "accuracy"), rows
    for key, title in (
        ("bins_before", "Calibration before temperature scaling"),
        ("bins", "Calibration after temperature scaling"),
    ):
        if trust["calibration"].get(key):  # figures of an earlier version have one of them
            yield (
                title,
                ("predicted", "consensus", "pairs"),
                [
                    [
                        Value(("calibration", key, n, "predicted"), "number"),
                        Value(("calibration", key, n, "observed"), "number"),
                        Value(("calibration", key, n, "count"), "count"),
                    ]
                    for n in range(len(trust["calibration"][key]))
                ],
            )
    yield (
        "Scores of the training completions",
        ("quantile", "score"),
        [[name, Value(("scores", "quantiles", name))] for name in trust["scores"]["quantiles"]],
    )
    if trust["worst"]:
        columns = ("prompt", "consensus", "score of chosen", "score of rejected", "loss")
        keys = ("probability", "chosen_score", "rejected_score", "loss")
        yield (
            "Held-out pairs that it gets most wrong",
            columns,
            [
                [row["prompt_id"], *(Value(("worst", n, key)) for key in keys)]
                for n, row in enumerate(trust["worst"])
            ],
        )


def as_text(value: Any, style: str) -> str:
    """A figure as people read it; an interval as `mean (low to high)`."""
    if value is None:
        return "not known"
    if isinstance(value, dict):
        mean, low, high = (shown(value[key], _STYLES[style]) for key in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"
    return f"{value:,}" if style == "count" else shown(value, _STYLES[style])


def markdown(trust: dict[str, Any]) -> Iterator[str]:
    """All of it as lines of Markdown. Completions are not quoted."""

    def draw(value: Value) -> str:
        return as_text(value.of(trust), value.style)

    yield from head("figure", "value", "what it is")
    yield from (row(*line) for line in lines(trust, draw))
    for title, columns, rows in tables(trust):
        yield from ("", f"{title}:", "")
        yield from head(*columns)
        for cells in rows:
            yield row(*(one if isinstance(one, str) else draw(one) for one in cells))


def head(*columns: str) -> Iterator[str]:
    """The lines that begin a table of Markdown."""
    yield row(*columns)
    yield "|" + "---|" * len(columns)


def row(*cells: str) -> str:
    """One line of it."""
    return "| " + " | ".join(map(cell, cells)) + " |"


def cell(text: str) -> str:
    """Text that cannot end a cell of Markdown or begin markup."""
    for character in ("\\", "|", "<", "*", "_", "`", "["):
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
