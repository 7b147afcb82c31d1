"""The templates of the pages: every text escaped, and of what cannot be seen in a text its code."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment.evaluation.plots import visible


def page_templates() -> Environment:
    """A new environment, to which a page may add filters of its own."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
