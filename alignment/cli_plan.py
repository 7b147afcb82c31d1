"""`concord plan`: parse, call `alignment.planning`, show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from alignment.cli_shared import ConfigOption, JsonOption, SetOption, WorkspaceOption


def plan(
    model: Annotated[
        str | None,
        typer.Argument(help="A size such as 7B, a folder or a hub id; by default the base model."),
    ] = None,
    workspace: WorkspaceOption = None,
    machine: Annotated[
        str | None,
        typer.Option(help="h100, a100-80gb, rtx-4090 and others, or 24GiB; this one by default."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the base: fp32, fp16, bf16, int8 or int4.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapters.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights in SFT.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences (or pairs) per pass and device.")
    ] = None,
    prompt_length: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 256,
    completion_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a completion.")
    ] = None,
    rollout: Annotated[
        int | None, typer.Option(min=2, help="Episodes of one PPO rollout per device.")
    ] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Devices, each with a copy (DDP).")] = 1,
    fsdp: Annotated[
        int | None, typer.Option(min=1, help="Devices over which the model is sharded (FSDP).")
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option(help="Recompute activations in the backward pass.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what training will need in memory and roughly in time, before anything is loaded."""
    from alignment.config import load_config
    from alignment.planning import PlanOptions
    from alignment.planning import plan as planned
    from alignment.workspace import CONFIG_FILE

    _check(precision, nproc, fsdp)
    own = (workspace or Path.cwd()) / CONFIG_FILE
    files = [own] if workspace is not None or own.exists() else []
    settings = load_config([*files, *(config or [])], assignments)
    figures = planned(
        settings,
        PlanOptions(
            model=model,
            precision=precision,
            lora_rank=lora_rank,
            full=full,
            batch_size=batch_size,
            prompt_length=prompt_length,
            completion_length=completion_length,
            rollout=rollout,
            devices=fsdp or nproc,
            fsdp=fsdp is not None,
            activation_checkpointing=checkpointing,
            machine=machine,
        ),
    )
    if as_json:
        typer.echo(json.dumps(figures, allow_nan=False))
    else:
        _show(figures)


def _check(precision: str | None, nproc: int, fsdp: int | None) -> None:
    from typing import get_args

    from alignment.config import Precision
    from alignment.errors import InputError

    known = get_args(Precision)
    if precision is not None and precision not in known:
        raise InputError(f"The precision {precision!r} is not known; choose {', '.join(known)}.")
    if nproc > 1 and fsdp is not None:
        raise InputError("Give --nproc (a copy on each device) or --fsdp (sharded), not both.")


def _show(figures: dict[str, Any]) -> None:
    """One column per stage: the parts held at its peak, whether that fits, and roughly how long it takes."""
    stages, model, machine = figures["stages"], figures["model"], figures["machine"]
    devices = next(iter(stages.values()))["setting"]["devices"]
    table = Table(
        title=f"{model['name']}: {model['parameters'] / 1e6:,.0f} M parameters on {devices} x {machine['name']}",
        title_justify="left",
    )
    table.add_column("GiB per device", no_wrap=True)
    for name, stage in stages.items():
        rank = stage["setting"]["lora_rank"]
        table.add_column(f"{name}, {'full' if rank is None else f'LoRA {rank}'}", justify="right")
    peaks = [stage["moments"][stage["peak_at"]] for stage in stages.values()]
    for part in dict.fromkeys(key for peak in peaks for key in peak if key != "total"):
        table.add_row(part, *(_gib(peak.get(part)) for peak in peaks))
    table.add_section()
    table.add_row("peak", *(_gib(stage["peak_bytes"]) for stage in stages.values()))
    table.add_row("at", *(stage["peak_at"] for stage in stages.values()))
    table.add_row("room", *(_gib(stage["room_bytes"]) for stage in stages.values()))
    table.add_row("fits", *("yes" if stage["fits"] else "NO" for stage in stages.values()))
    table.add_row("roughly", *(_time(name, stage["seconds"]) for name, stage in stages.items()))
    console = Console()
    console.print(table)
    for name, stage in stages.items():
        if not stage["fits"]:
            ways = (
                "; or ".join(stage["what_would_fit"]) or "none of the usual ones: a larger machine"
            )
            console.print(f"{name} would fit with: {ways}.")


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:,.2f}"


def _time(name: str, seconds: dict[str, float] | None) -> str:
    if seconds is None:
        return "speed not known"
    total = sum(seconds.values())
    unit = "iteration" if name == "ppo" else "step"
    return f"{total:.1f} s per {unit}" if total >= 0.1 else f"{1000 * total:.0f} ms per {unit}"
