"""Make the parts of the documentation that come from the code: `make docs`, or `python -m docs.build`.

`docs/reference/commands.md` from the command line, `options.md` from the configuration, `memory.md` from the arithmetic
of `concord plan`. A test fails where the files in the repository differ from what the code gives.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from alignment.cli import app
from alignment.config import Config, Section
from alignment.planning import PlanOptions, plan

REFERENCE = Path(__file__).resolve().parent / "reference"
_MADE = "<!-- Made by `make docs` from the code: do not edit. -->\n"


def commands() -> str:
    """Every command with its arguments and options, as Markdown."""
    parts = [_MADE, "# Commands\n", "`concord COMMAND --help` shows the same on the terminal.\n"]
    for name, command in _leaves("concord", typer.main.get_command(app)):
        parts.append(f"## `{name}`\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            parts.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for key in sorted(children):
        yield from _leaves(f"{name} {key}", children[key])


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        shown = f"`{parameter.name.upper()}`"
    else:
        shown = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
    return f"| {shown} | {parameter.help or ''} |"


def options() -> str:
    """Every key of the configuration with default and meaning, as Markdown."""
    parts = [
        _MADE,
        "# Options\n",
        "Keys of `concord.yaml`, of `--config FILE.yaml` and of `--set key=value`. Later sources win.\n",
    ]
    config = Config()
    for name, info in Config.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            parts.append(f"## `{name}`\n\n{info.description}. Default: `{value}`.\n")
            continue
        rows = [
            f"| `{key}` | `{json.dumps(getattr(value, key))}` | {field.description} |"
            for key, field in type(value).model_fields.items()
        ]
        heading = f"## `{name}`\n\n{inspect.cleandoc(type(value).__doc__ or '')}\n"
        parts.append(
            heading + "\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


LAUNCHES = {
    "one_gpu.yaml": {"devices": 1},
    "copies.yaml, 8 GPUs": {"devices": 8},
    "eight_gpus.yaml": {"devices": 8, "fsdp": True},
    "two_nodes.yaml": {"devices": 16, "fsdp": True},
}


def memory() -> str:
    """What each accelerate configuration needs per GPU, for bases of several sizes, as Markdown."""
    parts = [
        _MADE,
        "# Memory per GPU\n",
        "What the configurations of [accelerate](../how-to/distributed.md) need at their peak, in GiB per GPU, as "
        "`concord plan SIZE --precision bf16 --machine h100` with `--nproc` or `--fsdp` computes it: the default "
        "options, prompts of 256 tokens, and Llama's shapes. With `--checkpointing` activations are recomputed in the "
        "backward pass.\n",
    ]
    for checkpointing in (False, True):
        parts.append(f"## {'With' if checkpointing else 'Without'} `--checkpointing`\n")
        rows = [
            f"| {size} | `{name}` | " + " | ".join(_peaks(size, launch, checkpointing)) + " |"
            for size in ("1B", "7B", "13B")
            for name, launch in LAUNCHES.items()
        ]
        head = "| base | configuration | supervised | reward | PPO |\n|---|---|---|---|---|\n"
        parts.append(head + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _peaks(size: str, launch: dict[str, Any], checkpointing: bool) -> list[str]:
    asked = PlanOptions(
        model=size,
        precision="bf16",
        machine="h100",
        activation_checkpointing=checkpointing,
        **launch,
    )
    stages = plan(Config(), asked)["stages"].values()
    return [f"{stage['peak_bytes'] / 2**30:.1f}" for stage in stages]


PAGES = {"commands.md": commands, "options.md": options, "memory.md": memory}


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
