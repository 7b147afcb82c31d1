"""The reward model's trust figures as a page, `reward.html`, and as a section for other pages.

Like the report: one file, no script, no network, every text escaped, every figure that of the JSON.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from alignment.evaluation import reward_plots, reward_table
from alignment.evaluation.plots import visible
from alignment.evaluation.report_table import data_tag, json_path
from alignment.evaluation.reward_table import Cell, Value
from alignment.evaluation.templates import page_templates
from alignment.files import write_text


def write_reward_page(path: Path, trust: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the page. `trust`: the tree of `trust.json`; `result`: that of `reward.json`."""
    page = _environment().get_template("reward.html.j2")
    write_text(path, page.render(section=reward_section(trust, result)))


def reward_section(
    trust: dict[str, Any], result: dict[str, Any], place: tuple[str | int, ...] = ("trust",)
) -> Markup:
    """The section alone, HTML without a page or heading around it.

    `place`: the keys that lead to `trust` in the JSON that the figures are of; each figure names its own.
    """
    page = "-".join(map(str, place))
    calibration = trust["calibration"]
    drawings = [
        (title, note, Markup(svg))
        for title, note, svg in (
            (
                "Reliability diagram",
                "What it predicts against what the consensus says, before (hollow) and after temperature scaling; on "
                "the dotted line it is calibrated. Larger marks hold more pairs.",
                reward_plots.reliability_diagram(
                    calibration["bins"], calibration.get("bins_before", ()), page
                ),
            ),
            (
                "Scores",
                "Of the training completions; PPO takes off the mean and divides by the standard deviation.",
                reward_plots.score_distribution(trust["scores"], page),
            ),
            (
                "Accuracy by how sure the consensus is",
                "Pairs that careful labelers would be divided over are hard for everybody.",
                reward_plots.accuracy_bars(trust["by_margin"], "range", f"margin{page}"),
            ),
            (
                "Agreement with each group of labelers",
                "How often it orders a held-out pair as a labeler of that kind did.",
                reward_plots.accuracy_bars(trust["by_labeler_group"], "group", f"groups{page}"),
            ),
            (
                "Accuracy by prompt length",
                "Thirds of the held-out prompts.",
                reward_plots.accuracy_bars(trust["by_prompt_length"], "range", f"prompts{page}"),
            ),
        )
        if svg
    ]

    def draw(value: Value) -> Markup:
        return _tag(value.of(trust), value.style, (*place, *value.path))

    def cell(found: Cell) -> Markup:
        return draw(found) if isinstance(found, Value) else escape(visible(found))

    return Markup(
        _environment()
        .get_template("reward_section.html.j2")
        .render(
            lines=[tuple(map(Markup, line)) for line in reward_table.lines(trust, draw)],
            tables=[
                (title, columns, [[cell(one) for one in row] for row in rows])
                for title, columns, rows in reward_table.tables(trust)
            ],
            worst=trust["worst"],
            result=result,
            drawings=drawings,
        )
    )


@cache
def _environment() -> Environment:
    return page_templates()


def _tag(value: Any, style: str, path: tuple[str | int, ...]) -> Markup:
    """A figure as `<data>`, rounded for the reader, in full and by its place for a program; an interval as three."""
    if isinstance(value, dict):
        mean, low, high = (_tag(value[key], style, (*path, key)) for key in ("mean", "low", "high"))
        return Markup("{} ({} to {})").format(mean, low, high)
    if value is None:
        return Markup("not known")
    return data_tag(value, json_path(*map(str, path)), reward_table.as_text(value, style))
