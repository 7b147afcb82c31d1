"""What the command line's modules share: options, the job of a command, progress bars, tables."""

from __future__ import annotations

import contextlib
import functools
import getpass
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from alignment.progress import Progress

_WORKSPACE = typer.Option(
    "--workspace", "-w", help="The workspace; by default the current folder if it is one."
)
WorkspaceOption = Annotated[Path | None, _WORKSPACE]
ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", help="A YAML file of options. Repeatable.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One option, such as kl_coef=0.2. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the results.")]
PromptsOption = Annotated[Path | None, typer.Option("--prompts", help="JSONL of prompts.")]
CompletionsOption = Annotated[
    Path | None, typer.Option("--completions", help="JSONL of completions.")
]
GoldOption = Annotated[
    Path | None, typer.Option("--gold", help="JSONL of known orders, which settle their prompts.")
]
RankingsOption = Annotated[Path | None, typer.Option("--rankings", help="JSONL of rankings.")]
PairsOption = Annotated[Path | None, typer.Option("--pairs", help="JSONL of preference pairs.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Base model: folder or hub id; demo is made on the spot."),
]
PolicyOption = Annotated[Path | None, typer.Option("--policy", help="Folder of a policy adapter.")]
RewardModelOption = Annotated[
    Path | None, typer.Option("--reward-model", help="Folder of a reward model.")
]
BestOption = Annotated[
    bool,
    typer.Option("--best", help="The policy that did best on held-out prompts, not the last."),
]
FsdpOption = Annotated[
    int | None,
    typer.Option(
        "--fsdp", min=1, help="Train on N processes that share the model in shards (FSDP2)."
    ),
]
NprocOption = Annotated[
    int | None,
    typer.Option(
        "--nproc", min=1, help="Train on N processes that each hold the whole model (DDP)."
    ),
]
LaunchConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--launch-config", help="An accelerate configuration to launch with, such as of two nodes."
    ),
]

stderr = Console(stderr=True)


def me() -> str:
    """Who gives the command, for the record: the name of their login."""
    return getpass.getuser()


def launch_options(
    fsdp: int | None, nproc: int | None, launch_config: Path | None = None
) -> dict[str, Any]:
    """How to spread a run over processes, as it is kept with the run; empty where it stays in one."""
    file = None if launch_config is None else str(launch_config.resolve())
    options = {"fsdp": fsdp, "nproc": nproc, "config_file": file}
    return {name: value for name, value in options.items() if value is not None}


@contextlib.contextmanager
def job(
    section: str | None,
    workspace: Path | None,
    config: list[Path] | None,
    assignments: list[str] | None,
    out: Path | None = None,
    **files: Path | str | None,
) -> Iterator[Any]:
    """The job that a stage works on, with a progress bar on the standard error output while it runs."""
    from alignment.config import load_config
    from alignment.pipeline import Job
    from alignment.workspace import STORE_FILE, Workspace

    folder = workspace or (Path.cwd() if (Path.cwd() / STORE_FILE).exists() else None)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(Workspace.open(folder)) if folder else None
        own = [opened.config_file] if opened and opened.config_file.exists() else []
        settings = load_config([*own, *(config or [])], assignments, section)
        progress = stack.enter_context(progress_bars())
        given = {k: v for k, v in files.items() if v is not None}
        try:
            yield Job(settings, opened, given, out, progress, by=me())
        except KeyboardInterrupt:
            stderr.print(
                "Stopped. A training that has saved a checkpoint goes on from it: `concord runs resume` with its id "
                "or --out folder.",
                soft_wrap=True,
            )
            raise


@dataclass(frozen=True)
class StageOptions:
    """The options that every stage takes."""

    workspace: WorkspaceOption = None
    out: OutOption = None
    config: ConfigOption = None
    assignments: SetOption = None
    as_json: JsonOption = False

    def job(
        self, section: str, more: list[str] | None = None, **files: Path | str | None
    ) -> contextlib.AbstractContextManager[Any]:
        """The job of a stage; `more` assignments win over those given with `--set`."""
        given = [*(self.assignments or []), *(more or [])]
        return job(section, self.workspace, self.config, given, self.out, **files)


def stage_command(command: Callable[..., None]) -> Callable[..., None]:
    """`command(given, ...)` as a command that takes the fields of `StageOptions` after its own options."""
    own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
    shared = [*inspect.signature(StageOptions, eval_str=True).parameters.values()]
    names = [parameter.name for parameter in shared]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        command(StageOptions(**{name: values.pop(name) for name in names}), **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [*own, *(parameter.replace(kind=keyword) for parameter in shared)]
    wrapped.__dict__["__signature__"] = inspect.Signature(parameters)
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on a terminal; a line every tenth of the way elsewhere."""
    if not stderr.is_terminal:
        last: dict[str, int] = {}

        def line(label: str, done: int, total: int, note: str = "") -> None:
            tenth = 10 * done // max(total, 1)
            if last.get(label) != tenth:
                last[label] = tenth
                print(f"{label}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

        yield line
        return
    with RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=stderr,
    ) as bars:
        tasks: dict[str, Any] = {}

        def bar(label: str, done: int, total: int, note: str = "") -> None:
            if label not in tasks or bars.tasks[tasks[label]].completed > done:
                tasks[label] = bars.add_task(label, total=total, note=note)
            bars.update(tasks[label], completed=done, total=total, note=note)

        yield bar


def show(figures: dict[str, Any], as_json: bool, title: str) -> None:
    """A table of figures, or one JSON object as the last line."""
    if as_json:
        typer.echo(json.dumps(figures, ensure_ascii=False, allow_nan=False))
        return
    table = Table("figure", "value", title=title, title_justify="left")
    for key, value in figures.items():
        if not isinstance(value, list | dict) or key in ("flagged", "flagged_labelers", "seconds"):
            table.add_row(key, escape(_readable(value)))
        elif isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
            table.add_row(
                key, f"{value['mean']:.3f}  (95%: {value['low']:.3f} to {value['high']:.3f})"
            )
    Console().print(table)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "  ".join(f"{k} {_readable(v)}" for k, v in value.items())
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else "-"
        if value is None
        else str(value)
    )


def rows(records: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool, name: str) -> None:
    if as_json:
        typer.echo(json.dumps({name: records}, ensure_ascii=False))
        return
    table = Table()
    for number, column in enumerate(columns):  # an id is there to be copied: never cut it
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in records:
        table.add_row(*(escape(_readable(row[column])) for column in columns))
    Console().print(table)
