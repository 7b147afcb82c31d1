"""The reward model's trust figures as a page, `reward.html`, and as a section for other pages.

Like the report: one file, no script, no network, every text escaped, every figure that of the JSON.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignment.evaluation import reward_plots
from alignment.evaluation.plots import visible
from alignment.files import write_text


def write_reward_page(path: Path, trust: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the page. `trust`: the tree of `trust.json`; `result`: that of `reward.json`."""
    page = _environment().get_template("reward.html.j2")
    write_text(path, page.render(section=reward_section(trust, result)))


def reward_section(trust: dict[str, Any], result: dict[str, Any]) -> Markup:
    """The section alone, HTML without a page around it."""
    drawings = [
        (title, note, Markup(svg))
        for title, note, svg in (
            (
                "Reliability diagram",
                "What it predicts against what the consensus says; on the dotted line it is calibrated. Larger marks "
                "hold more pairs.",
                reward_plots.reliability_diagram(trust["calibration"]["bins"]),
            ),
            (
                "Scores",
                "Of the training completions; PPO takes off the mean and divides by the standard deviation.",
                reward_plots.score_distribution(trust["scores"]),
            ),
            (
                "Accuracy by how sure the consensus is",
                "Pairs that careful labelers would be divided over are hard for everybody.",
                reward_plots.accuracy_bars(trust["by_margin"], "range", "margin"),
            ),
            (
                "Agreement with each group of labelers",
                "How often it orders a held-out pair as a labeler of that kind did.",
                reward_plots.accuracy_bars(trust["by_labeler_group"], "group", "groups"),
            ),
            (
                "Accuracy by prompt length",
                "Thirds of the held-out prompts.",
                reward_plots.accuracy_bars(trust["by_prompt_length"], "range", "prompts"),
            ),
        )
        if svg
    ]
    template = _environment().get_template("reward_section.html.j2")
    return Markup(template.render(trust=trust, result=result, drawings=drawings))


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
    environment.filters.update(share=_share, number=_number)
    return environment


def _share(row: dict[str, float] | None) -> Markup:
    """A share with its interval in percent."""
    if row is None:
        return Markup("not known")
    return Markup('<data value="{}">{:.1%}</data> ({:.1%} to {:.1%})').format(
        repr(row["mean"]), row["mean"], row["low"], row["high"]
    )


def _number(value: float | None) -> Markup:
    if value is None:
        return Markup("not known")
    return Markup('<data value="{}">{}</data>').format(
        repr(float(value)), f"{value:.3f}".replace("-", "−")
    )
