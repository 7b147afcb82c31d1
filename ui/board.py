"""The ranking board: a `gr.HTML` with its own markup, style and script, which talks to `/api`.

The markup is a constant: no prompt and no completion passes through Gradio's templates, where text would be run as
code. The script fills text in with `textContent`. (Functions, not subclasses of `gr.HTML`: Gradio writes a `.pyi` file
beside the module of every subclass.)
"""

from __future__ import annotations

import gradio as gr

from ui.look import page_blocks, scripts
from ui.shell import ASSETS, asset_url


def ranking_board() -> gr.HTML:
    """Shows the caller's next task and sends the ranking. Holds no value on the server."""
    styles = f'<link rel="stylesheet" href="{asset_url("board.css")}">'
    return gr.HTML(
        html_template=(ASSETS / "board.html").read_text(encoding="utf-8"),
        js_on_load="window.concord.board(element)",
        head=styles + scripts("shell.js", "ranking.js", "drag.js", "board.js"),
        apply_default_css=False,
        elem_id="board",
    )


def board_page() -> gr.Blocks:
    """The page at `/board`."""
    with page_blocks("Rank") as blocks:
        ranking_board()
    return blocks
