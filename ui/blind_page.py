"""The page at `/blind`: two completions side by side, which is better? Its script talks to `/api/blind`.

The markup is a constant, as that of the board: no text passes through Gradio's templates.
"""

from __future__ import annotations

import gradio as gr

from ui.look import page_blocks, scripts
from ui.shell import ASSETS, asset_url


def blind_page() -> gr.Blocks:
    """The page for everybody who is signed in."""
    styles = f'<link rel="stylesheet" href="{asset_url("blind.css")}">'
    with page_blocks("Compare") as blocks:
        gr.HTML(
            html_template=(ASSETS / "blind.html").read_text(encoding="utf-8"),
            js_on_load="window.concord.blind(element)",
            head=styles + scripts("shell.js", "board-text.js", "blind.js"),
            apply_default_css=False,
            elem_id="blind",
        )
    return blocks
