"""The model card of a policy: what it was made from and what was measured, as Markdown with metadata for the hub.

Follows Mitchell et al. 2019 (arXiv:1810.03993). Only what is given appears; a figure that nobody measured reads "not
measured". People are counted, never named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

UNKNOWN = "not measured"
_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    name: str,
    base_model: str,
    *,
    merged: bool = False,
    data: Mapping[str, Any] | None = None,
    consensus: Mapping[str, Any] | None = None,
    reward: Mapping[str, Any] | None = None,
    ppo: Mapping[str, Any] | None = None,
    best: bool = False,
    ppo_config: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    reviews: Sequence[Mapping[str, Any]] = (),
    runs: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> str:
    """The card as text. The figures are those that the stages' runs recorded, under their names.

    `data`: train_prompts, held_out_prompts, completions, rankings, people, simulated (labelers). `reviews`: verdict and
    comment of each. `best`: the policy is the run's best on held-out prompts, not its last. A base that is a folder
    appears by its last name only: a path says where somebody works.
    """
    evaluation = evaluation or {}
    hub_base = base_model if _HUB_ID.fullmatch(base_model) else None
    metadata = ModelCardData(
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["concord", "rlhf", "ppo", *([] if merged else ["lora"])],
        base_model=hub_base,
        model_name=name,
        eval_results=_results(evaluation),
        ignore_metadata_errors=False,
    )
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "text": _one_line}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        metadata=metadata.to_yaml(),
        name=name,
        base=hub_base or Path(base_model).name,
        merged=merged,
        data=data or {},
        consensus=consensus or {},
        reward=reward or {},
        ppo=ppo or {},
        best=best,
        config=ppo_config or {},
        evaluation=evaluation,
        reviews=reviews,
        runs=runs or {},
        versions=versions or {},
        limits=_limits(data or {}, consensus or {}, evaluation, reviews),
    )


def figure(value: Any, form: str = "number") -> str:
    """A figure in words; None is "not measured". `form`: number, share (as per cent) or count."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Mapping):
        low, high = figure(value.get("low"), form), figure(value.get("high"), form)
        return f"{figure(value.get('mean'), form)} (95% interval {low} to {high})"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _one_line(str(value))
    if form == "share":
        return f"{100 * value:.1f}%"
    return f"{value:,}" if form == "count" else f"{value:.3g}"


def _one_line(text: str) -> str:
    """Text that cannot break out of its line of Markdown: no line breaks, pipes or tags."""
    flat = " ".join(str(text).split())
    return flat.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _results(evaluation: Mapping[str, Any]) -> list[EvalResult] | None:
    """The toxicity after alignment as the hub's metadata know a result."""
    after = (evaluation.get("toxicity_after") or {}).get("mean")
    if after is None:
        return None
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name="held-out prompts",
            metric_type="toxicity",
            metric_name=f"mean toxicity by {evaluation.get('scorer') or 'an unnamed scorer'}",
            metric_value=round(after, 4),
        )
    ]


def _limits(
    data: Mapping[str, Any],
    consensus: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    reviews: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the evidence does not show."""
    limits = []
    if data.get("simulated"):
        limits.append("Simulated labelers ranked: their preferences are a program's, not people's.")
    if consensus.get("flagged"):
        count = len(consensus["flagged"])
        limits.append(f"{count} labeler(s) were flagged as unreliable by the consensus.")
    if not evaluation:
        limits.append("No comparison with the base on held-out prompts is known for this policy.")
    else:
        limits.append(
            f"Toxicity is the score of one scorer ({_one_line(evaluation.get('scorer') or UNKNOWN)}) on the held-out "
            "prompts of this project; other prompts and other harms were not measured by it."
        )
    if not reviews:
        limits.append("No reviewer has given a verdict.")
    limits.append("Helpfulness, factual accuracy and other languages were not measured.")
    return limits
