"""What all pages share: the templates, the vendored assets and the plain message page.

Templates are Jinja with autoescaping on, so that no text of a prompt, completion or run is ever markup.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "assets"

_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages = Jinja2Templates(env=_environment)


@cache
def asset_url(name: str) -> str:
    """The address of a vendored file; it changes with the content, so that no browser keeps an old one."""
    digest = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:10]
    return f"/assets/{name}?v={digest}"


_environment.globals["asset_url"] = asset_url


def fragment(template: str, **values: Any) -> str:
    """A piece of HTML, every value escaped."""
    return _environment.get_template(template).render(**values)


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A whole page."""
    return _pages.TemplateResponse(request, template, values, status_code=status)


def message_page(request: Request, status: int, message: str) -> Response:
    """A page that says one thing and offers the way home."""
    return page(request, "message.html", status, message=message)
