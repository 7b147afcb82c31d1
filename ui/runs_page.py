"""The control room at `/runs`: start, watch, end, resume and compare runs.

The page is a `gr.HTML` like the board: its markup is made by its own script from what `/api/runs` says, text as text.
Curves are drawn by uPlot, vendored.
"""

from __future__ import annotations

import gradio as gr

from ui.look import page_blocks, scripts
from ui.shell import asset_url

_SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "shell.js",
    "curves.js",
    "rounds.js",
    "run_fit.js",
    "run_form.js",
    "run_view.js",
    "runs.js",
)


def runs_page() -> gr.Blocks:
    """The page."""
    styles = "".join(
        f'<link rel="stylesheet" href="{asset_url(name)}">'
        for name in ("vendor/uPlot.min.css", "runs.css")
    )
    with page_blocks("Runs") as blocks:
        gr.HTML(
            html_template='<div class="r c-panel"></div>',
            js_on_load="window.concord.runs(element)",
            head=styles + scripts(*_SCRIPTS),
            apply_default_css=False,
            elem_id="control-room",
        )
    return blocks
