"""The look of the Gradio pages: theme, style sheet and navigation bar. The colours are those of the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.themes import Base, Color

from alignment.errors import ConcordError
from ui.shell import asset_url

# Events that are answered at once, without a queue, a progress bar, or a place in Gradio's public API.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Events that may raise `gr.Error` or call `gr.Info`: Gradio shows neither without its queue.
SPOKEN: dict[str, Any] = {**QUIET, "queue": True, "concurrency_limit": None}
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO_FONTS = ("ui-monospace", "SF Mono", "Cascadia Mono", "Consolas", "monospace")

_BLUE = Color(
    "#eef6fc", "#d9eaf7", "#b4d5ef", "#88bde6", "#67b1ea", "#3f8fcb", "#1f6fae", "#1a5d92", "#174f7b",
    "#143f61", "#0d2a41",
)  # fmt: skip
_GREY = Color(
    "#f6f7f9", "#eef0f3", "#e1e4e9", "#c9ced6", "#a1a8b3", "#767d88", "#5c636d", "#3d434b", "#2d3138",
    "#1b1e23", "#121417",
)  # fmt: skip


def theme() -> Base:
    """Concord's colours as a Gradio theme. Only fonts that the machine has: nothing is fetched."""
    base = Base(
        primary_hue=_BLUE,
        secondary_hue=_BLUE,
        neutral_hue=_GREY,
        font=SYSTEM_FONTS,
        font_mono=MONO_FONTS,
    )
    return base.set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#121417",
        body_text_color="#1a1d21",
        body_text_color_dark="#e8eaed",
        body_text_color_subdued="#5c636d",
        body_text_color_subdued_dark="#a1a8b3",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1b1e23",
        block_border_color="#e1e4e9",
        block_border_color_dark="#2d3138",
        block_radius="14px",
        block_shadow="none",
        block_label_text_color="#5c636d",
        block_label_text_color_dark="#a1a8b3",
        block_title_text_color="#1a1d21",
        block_title_text_color_dark="#e8eaed",
        block_title_text_weight="600",
        input_background_fill="#ffffff",
        input_background_fill_dark="#121417",
        block_padding="16px",
        checkbox_background_color="#ffffff",
        checkbox_background_color_dark="#121417",
        checkbox_border_color="#868d98",
        checkbox_border_color_dark="#6b727c",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_hover="#eef0f3",
        checkbox_label_background_fill_hover_dark="#252930",
        checkbox_label_background_fill_selected="#e6f1f9",
        checkbox_label_background_fill_selected_dark="#172b3c",
        checkbox_label_border_color="#e1e4e9",
        checkbox_label_border_color_dark="#2d3138",
        checkbox_label_border_color_selected="#1f6fae",
        checkbox_label_border_color_selected_dark="#67b1ea",
        checkbox_label_border_width="1px",
        checkbox_label_text_color_selected="#1a1d21",
        checkbox_label_text_color_selected_dark="#e8eaed",
        input_radius="10px",
        input_border_width="1px",
        input_placeholder_color="#5c636d",
        input_placeholder_color_dark="#a1a8b3",
        input_border_color="#868d98",
        input_border_color_dark="#6b727c",
        button_primary_background_fill="#1f6fae",
        button_primary_background_fill_hover="#1a5d92",
        button_primary_background_fill_dark="#67b1ea",
        button_primary_background_fill_hover_dark="#8cc6f2",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#0d1b27",
        button_large_radius="10px",
        loader_color="#1f6fae",
        loader_color_dark="#67b1ea",
    )


def page_head() -> str:
    """What goes into the `<head>` of every Gradio page."""
    return (
        f'<link rel="icon" href="{asset_url("icon.svg")}" type="image/svg+xml">'
        f'<link rel="stylesheet" href="{asset_url("concord.css")}">'
    )


def scripts(*names: str) -> str:
    """The `head` of a `gr.HTML` whose `js_on_load` needs these files.

    Gradio waits for the scripts of a component's own head before it runs `js_on_load`. It does not wait for those of
    the page's head, so a script must be in the one and not in the other.
    """
    return "".join(f'<script src="{asset_url(name)}"></script>' for name in names)


def navigation_bar() -> gr.HTML:
    """The bar at the top: the pages of the caller's role, their name, and the way out."""
    return gr.HTML(
        html_template='<header class="c-nav"></header>',
        js_on_load="window.concord.navigation(element)",
        head=scripts("shell.js"),
        apply_default_css=False,
        elem_id="navigation",
    )


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A mistake that the caller can mend becomes a message on the page."""
    try:
        yield
    except ConcordError as error:
        raise gr.Error(str(error), print_exception=False) from None


@contextlib.contextmanager
def page_blocks(title: str) -> Iterator[gr.Blocks]:
    """Blocks with the navigation bar, no analytics, the full width of the window."""
    with gr.Blocks(title=f"{title} · Concord", analytics_enabled=False, fill_width=True) as blocks:
        navigation_bar()
        yield blocks
