"""Make the parts of the documentation that come from the code: `make docs`, or `python -m docs.build`.

`docs/reference/commands.md` from the command line, `docs/reference/options.md` from the configuration. A test
fails where the files in the repository differ from what the code gives.
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


PAGES = {"commands.md": commands, "options.md": options}


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
