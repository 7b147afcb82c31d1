"""The `concord` command: parse, call `alignment.pipeline`, show. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from alignment import __version__, cli_people
from alignment.cli_evaluate import evaluate_app
from alignment.cli_known_orders import adjudicate, gold_app
from alignment.cli_plan import plan
from alignment.cli_runs import runs_app
from alignment.cli_shared import (
    BestOption,
    CompletionsOption,
    FsdpOption,
    GoldOption,
    JsonOption,
    LaunchConfigOption,
    ModelOption,
    NprocOption,
    PairsOption,
    PolicyOption,
    PromptsOption,
    RankingsOption,
    RewardModelOption,
    StageOptions,
    WorkspaceOption,
    launch_options,
    stage_command,
)
from alignment.cli_shared import job as _job
from alignment.cli_shared import progress_bars as _progress
from alignment.cli_shared import rows as _rows
from alignment.cli_shared import show as _show
from alignment.cli_shared import stderr as _stderr
from alignment.errors import ConcordError

app = typer.Typer(
    help="Concord: from people's rankings to an aligned policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prompts_app = typer.Typer(help="The prompts of a workspace.", no_args_is_help=True)
labelers_app = typer.Typer(help="People and simulations who rank.", no_args_is_help=True)
train_app = typer.Typer(help="Train the reward model and the policy.", no_args_is_help=True)
for name, group in {
    "prompts": prompts_app,
    "labelers": labelers_app,
    "train": train_app,
    "evaluate": evaluate_app,
    "runs": runs_app,
    "tokens": cli_people.tokens_app,
    "gold": gold_app,
}.items():
    app.add_typer(group, name=name)
app.command()(adjudicate)

app.command()(plan)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new workspace.")],
    model: Annotated[
        str, typer.Option("--model", help="Base model: folder, hub id, or demo.")
    ] = "demo",
    as_json: JsonOption = False,
) -> None:
    """Make a workspace: concord.yaml, feedback.db and runs/."""
    from alignment.config import load_config
    from alignment.workspace import Workspace

    # A folder is named from here, and read from wherever the workspace is worked on.
    base = str(Path(model).resolve()) if Path(model).is_dir() else model
    with Workspace.create(folder, load_config(None, [f"base_model={base}"])) as workspace:
        _show(
            {"workspace": str(workspace.folder), "config": str(workspace.config_file)},
            as_json,
            "Workspace made",
        )


@prompts_app.command("import")
def prompts_import(
    prompts: Annotated[Path, typer.Argument(help="JSONL of prompts.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add prompts to the workspace."""
    from alignment import pipeline

    with _job(None, workspace, None, None, prompts=prompts) as job:
        figures = pipeline.import_prompts(job)
    _show(figures, as_json, "Prompts imported")


@app.command()
@stage_command
def sample(
    given: StageOptions,
    prompts: PromptsOption = None,
    model: ModelOption = None,
    policy: PolicyOption = None,
) -> None:
    """Sample K completions of each prompt."""
    from alignment import pipeline

    with given.job("sample", prompts=prompts, model=model, policy=policy) as job:
        figures = pipeline.sample(job)
    _show(figures, given.as_json, "Completions sampled")


@labelers_app.command("add")
def labelers_add(
    name: Annotated[str, typer.Argument(help="The name to sign in with.")],
    role: Annotated[str, typer.Option(help="labeler, engineer, reviewer or admin.")] = "labeler",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a person sign in; prints a fresh password once."""
    from alignment.feedback import audit, people

    with _job(None, workspace, None, None) as job:
        store = job._store("workspace")
        password = people.add_account(store, name, role)
        audit.record(store, job.by, "add account", name, role=role)
    _show(
        {"name": name, "role": role, "password": password},
        as_json,
        "Account made; the password is not kept",
    )


@labelers_app.command("list")
def labelers_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Everyone who ranks, with the count of their rankings."""
    from alignment.feedback import people

    with _job(None, workspace, None, None) as job:
        rows = people.labelers(job._store("workspace"))
    _rows(rows, ("labeler_id", "simulated", "role", "rankings"), as_json, "labelers")


cli_people.add_commands(labelers_app)


@labelers_app.command("simulate")
@stage_command
def labelers_simulate(
    given: StageOptions,
    completions: CompletionsOption = None,
) -> None:
    """Let simulated labelers of known kinds rank the completions."""
    from alignment import pipeline

    with given.job("simulate", completions=completions) as job:
        figures = pipeline.simulate(job)
    _show(figures, given.as_json, "Simulated rankings")


@app.command()
@stage_command
def consensus(
    given: StageOptions,
    rankings: RankingsOption = None,
    completions: CompletionsOption = None,
    prompts: PromptsOption = None,
    gold: GoldOption = None,
) -> None:
    """Combine rankings into preference pairs; say whom to trust."""
    from alignment import pipeline

    with given.job(
        "consensus",
        rankings=rankings,
        completions=completions,
        prompts=prompts,
        gold=gold,
    ) as job:
        figures = pipeline.consensus(job)
    labelers = figures.pop("labelers_table")
    if not given.as_json:
        from alignment.cli_consensus import show_labelers

        show_labelers(labelers)
    _show(figures, given.as_json, "Consensus")


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(help="prompts, completions, rankings, pairs, labelers, or model.")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write; for model, a folder.")],
    workspace: WorkspaceOption = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Model: add the adapter to the base's weights.")
    ] = False,
    policy: PolicyOption = None,
    best: BestOption = False,
    model: ModelOption = None,
    dtype: Annotated[
        str, typer.Option(help="Merged model: fp32, or bf16 and fp16, which round.")
    ] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Write data as JSONL, or the policy with its model card."""
    from alignment import exporting, pipeline

    with _job(None, workspace, None, None, out, policy=policy, model=model) as job:
        if what == "model":
            figures = exporting.export_model(job, merge, dtype, best)
        else:
            figures = pipeline.export(
                job, what, model_options=merge or best or bool(policy or model)
            )
    _show(figures, as_json, "Exported")


@train_app.command("reward")
@stage_command
def train_reward(
    given: StageOptions,
    pairs: PairsOption = None,
    model: ModelOption = None,
    fsdp: FsdpOption = None,
    nproc: NprocOption = None,
    launch_config: LaunchConfigOption = None,
) -> None:
    """Train the reward model on preference pairs."""
    from alignment import pipeline

    with given.job("reward", pairs=pairs, model=model) as job:
        figures = pipeline.train_reward(
            replace(job, launch=launch_options(fsdp, nproc, launch_config))
        )
    _show(figures, given.as_json, "Reward model")
    for message in figures["messages"]:
        _stderr.print(message, highlight=False, soft_wrap=True, markup=False)


@train_app.command("ppo")
@stage_command
def train_ppo(
    given: StageOptions,
    prompts: PromptsOption = None,
    model: ModelOption = None,
    reward_model: RewardModelOption = None,
    fsdp: FsdpOption = None,
    nproc: NprocOption = None,
    launch_config: LaunchConfigOption = None,
) -> None:
    """Align a LoRA policy against the reward model with PPO."""
    from alignment import pipeline

    with given.job(
        "ppo",
        prompts=prompts,
        model=model,
        reward_model=reward_model,
    ) as job:
        figures = pipeline.train_ppo(
            replace(job, launch=launch_options(fsdp, nproc, launch_config))
        )
    _show(figures, given.as_json, "PPO")


@train_app.command("join")
def train_join(
    folder: Annotated[
        Path,
        typer.Argument(help="The --out of the run, under the same path as on the first machine."),
    ],
    launch_config: Annotated[
        Path,
        typer.Option(help="The accelerate configuration that the first machine launches with."),
    ],
    machine_rank: Annotated[
        int, typer.Option(min=1, help="This machine's number; the first has 0.")
    ],
) -> None:
    """On every further machine: take part in a run of several nodes."""
    from alignment.training.launch import join, launch_from

    with _progress() as progress:
        join(folder, launch_from(launch_config, machine_rank=machine_rank), progress)


@app.command()
def report(
    workspace: WorkspaceOption = None,
    comparison: Annotated[
        Path | None, typer.Option(help="comparison.json of an evaluation.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write.")] = None,
    verify: Annotated[
        bool, typer.Option(help="Compute the figures again from the stored completions.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the reports of an evaluation: HTML, Markdown and CSV."""
    from alignment import evaluation_stage

    with _job(None, workspace, None, None, out, comparison=comparison) as job:
        figures = evaluation_stage.report(job, verify)
    _show(figures, as_json, "Report written")


@app.command()
def ui(
    workspace: WorkspaceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Serve the labelling, run and review pages."""
    from alignment.workspace import Workspace

    folder = workspace or Path.cwd()
    Workspace.open(folder).close()
    from ui.app import serve

    serve(folder, host=host, port=port)


@app.command()
def demo(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder of the demo.")
    ] = Path("concord-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of every stage.")] = 0,
    serve: Annotated[bool, typer.Option(help="Serve the UI when the loop has run.")] = True,
    port: Annotated[int, typer.Option(help="Port of the UI.")] = 7860,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on a small made-up language, then serve the UI."""
    from alignment.demo import ACCOUNTS_FILE, run_demo

    with _progress() as progress:
        figures = run_demo(workspace, seed, progress)
    _show(figures, as_json, "The demo: before and after alignment")
    if serve:
        accounts = (workspace / ACCOUNTS_FILE).read_text(encoding="utf-8")
        _stderr.print(
            f"\nSign in at http://127.0.0.1:{port} as (name, password):\n{accounts}Press Ctrl+C to stop.",
            markup=False,
        )
        from ui.app import serve as serve_ui

        serve_ui(workspace, port=port)


@app.command()
def version() -> None:
    """Print Concord's version."""
    typer.echo(__version__)


def _private_and_quiet() -> None:
    """No telemetry; libraries speak only when something is wrong."""
    os.environ.update(
        {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def run(command: Callable[[], Any]) -> int:
    """Run a command; a mistake that the user can mend becomes one paragraph and exit code 2."""
    try:
        command()
    except ConcordError as error:
        _stderr.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        _stderr.print("Stopped.")
        return 130
    return 0


def main() -> None:
    """Entry point of the `concord` command."""
    _private_and_quiet()
    sys.exit(run(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
