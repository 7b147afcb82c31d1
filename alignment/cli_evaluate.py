"""`concord evaluate compare`, `texts` and `train-scorer`: parse, call `alignment.evaluation_stage`, show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

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
_PromptsOption = Annotated[Path | None, typer.Option("--prompts", help="JSONL of prompts.")]
_OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the results.")]
_WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", help="The workspace; by default the current folder if it is one."
    ),
]
_ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", help="A YAML file of options. Repeatable.")
]
_SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One option, such as threshold=0.7. Repeatable.")
]
_JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line.")
]


def add_commands(app: typer.Typer, job: Callable[..., Any], show: Callable[..., None]) -> None:
    """Add the commands to `concord evaluate`. `job` and `show` are those of `alignment.cli`."""

    @app.command("compare")
    def compare(
        model: _ModelOption,
        workspace: _WorkspaceOption = None,
        prompts: _PromptsOption = None,
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
        out: _OutOption = None,
        config: _ConfigOption = None,
        assignments: _SetOption = None,
        as_json: _JsonOption = False,
    ) -> None:
        """Compare any number of models on the same prompts, by any number of scorers."""
        from alignment import evaluation_stage

        given = {"completions_per_prompt": n, "probe": str(probe) if probe else None}
        settings = [*(assignments or []), *_assignments(scorer, trained_by, given)]
        with job("evaluate", workspace, config, settings, out, prompts=prompts) as work:
            figures = evaluation_stage.compare_models(work, model, checkpoints)
        show(figures, as_json, "Models compared")

    @app.command("texts")
    def texts(
        before: Annotated[Path, typer.Option(help="JSONL of completions before.")],
        after: Annotated[Path, typer.Option(help="JSONL of completions after.")],
        workspace: _WorkspaceOption = None,
        prompts: _PromptsOption = None,
        scorer: _ScorerOption = None,
        trained_by: _TrainedByOption = None,
        out: _OutOption = None,
        config: _ConfigOption = None,
        assignments: _SetOption = None,
        as_json: _JsonOption = False,
    ) -> None:
        """Compare completions that were made elsewhere."""
        from alignment import evaluation_stage

        settings = [*(assignments or []), *_assignments(scorer, trained_by, {})]
        with job("evaluate", workspace, config, settings, out, prompts=prompts) as work:
            figures = evaluation_stage.compare_texts(work, before, after)
        show(figures, as_json, "Texts compared")

    @app.command("train-scorer")
    def train_scorer(
        texts: Annotated[
            Path, typer.Option("--texts", help='JSONL of {"text", "toxic": true or false}.')
        ],
        out: Annotated[Path, typer.Option("--out", help="Folder for the scorer.")],
        name: Annotated[str, typer.Option(help="What reports call the scorer.")] = "linear",
        as_json: _JsonOption = False,
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
    import json

    values = {key: value for key, value in given.items() if value is not None}
    if scorers:
        values |= {"scorer": scorers[0], "more_scorers": scorers[1:]}
    if trained_by:
        values["trained_by"] = trained_by
    return [f"evaluate.{key}={json.dumps(value)}" for key, value in values.items()]
