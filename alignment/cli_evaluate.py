"""`concord evaluate`: parse, call `alignment.evaluation_stage`, show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.cli_shared import (
    JsonOption,
    ModelOption,
    PolicyOption,
    PromptsOption,
    StageOptions,
    job,
    show,
    stage_command,
)

_ModelOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="NAME=DIR_OR_ID, a folder, hub id or run id. Repeatable: the first is the reference, the last the "
        "candidate.",
    ),
]
_ScorerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scorer",
        help="profanity-check, a text-classification model (MODEL#LABEL), a trained scorer's folder, or "
        "module:function. Repeatable.",
    ),
]
_TrainedByOption = Annotated[
    list[str] | None,
    typer.Option("--trained-by", help="A scorer that trained a model here. Repeatable."),
]
evaluate_app = typer.Typer(help="Compare models before and after.", no_args_is_help=True)


@evaluate_app.command("toxicity")
@stage_command
def evaluate_toxicity(
    given: StageOptions,
    prompts: PromptsOption = None,
    model: ModelOption = None,
    policy: PolicyOption = None,
) -> None:
    """Compare toxicity before and after on held-out prompts."""
    from alignment import evaluation_stage

    with given.job("evaluate", prompts=prompts, model=model, policy=policy) as work:
        figures = evaluation_stage.toxicity(work)
    show(figures, given.as_json, "Before and after")


@evaluate_app.command("compare")
@stage_command
def compare(
    given: StageOptions,
    model: _ModelOption,
    prompts: PromptsOption = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Completions of each prompt and model.")
    ] = None,
    scorer: _ScorerOption = None,
    trained_by: _TrainedByOption = None,
    probe: Annotated[
        Path | None,
        typer.Option(help="General text, one passage a line, to measure forgetting."),
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option(help="Compare the checkpoints in each model's folder too.")
    ] = False,
) -> None:
    """Compare any number of models on the same prompts, by any number of scorers."""
    from alignment import evaluation_stage

    options = {"completions_per_prompt": n, "probe": str(probe) if probe else None}
    settings = _assignments(scorer, trained_by, options)
    with given.job("evaluate", settings, prompts=prompts) as work:
        figures = evaluation_stage.compare_models(work, model, checkpoints)
    show(figures, given.as_json, "Models compared")


@evaluate_app.command("texts")
@stage_command
def texts(
    given: StageOptions,
    before: Annotated[Path, typer.Option(help="JSONL of completions before.")],
    after: Annotated[Path, typer.Option(help="JSONL of completions after.")],
    prompts: PromptsOption = None,
    scorer: _ScorerOption = None,
    trained_by: _TrainedByOption = None,
) -> None:
    """Compare completions that were made elsewhere."""
    from alignment import evaluation_stage

    settings = _assignments(scorer, trained_by, {})
    with given.job("evaluate", settings, prompts=prompts) as work:
        figures = evaluation_stage.compare_texts(work, before, after)
    show(figures, given.as_json, "Texts compared")


@evaluate_app.command("train-scorer")
def train_scorer(
    texts: Annotated[
        Path, typer.Option("--texts", help='JSONL of {"text", "toxic": true or false}.')
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the scorer.")],
    name: Annotated[str, typer.Option(help="What reports call the scorer.")] = "linear",
    as_json: JsonOption = False,
) -> None:
    """Train a linear toxicity scorer, a second judge without a hub."""
    from alignment import evaluation_stage

    with job(None, None, None, None, out) as work:
        figures = evaluation_stage.train_scorer(work, texts, name)
    show(figures, as_json, "Scorer trained")


def _assignments(
    scorers: list[str] | None, trained_by: list[str] | None, given: dict[str, Any]
) -> list[str]:
    """The options as `key=value`, which `load_config` checks like any other."""
    values = {key: value for key, value in given.items() if value is not None}
    if scorers:
        values |= {"scorer": scorers[0], "more_scorers": scorers[1:]}
    if trained_by:
        values["trained_by"] = trained_by
    return [f"evaluate.{key}={json.dumps(value)}" for key, value in values.items()]
