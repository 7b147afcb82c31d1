"""The ranking board: a `gr.HTML` with its own markup, style and script, which talks to `/api`.

The markup is a constant: no prompt and no completion passes through Gradio's templates, where text would be run as
code. The scripts fill text in as text nodes. (Functions, not subclasses of `gr.HTML`: Gradio writes a `.pyi` file
beside the module of every subclass.)
"""

from __future__ import annotations

import gradio as gr

from ui.look import page_blocks, scripts
from ui.shell import ASSETS, asset_url

MARKUP = ("board.html", "board-dialogs.html")
STYLES = ("board.css", "board-cards.css", "board-dialogs.css")
SCRIPTS = (
    "shell.js",
    "vendor/markdown-it.min.js",
    "ranking.js",
    "drag.js",
    "board-text.js",
    "board-outbox.js",
    "board-drafts.js",
    "board-cards.js",
    "board-places.js",
    "board-dialogs.js",
    "board-answers.js",
    "board-guide.js",
    "board-pace.js",
    "board-keys.js",
    "board-messages.js",
    "board-order.js",
    "board-sending.js",
    "board-clicks.js",
    "board.js",
)


def ranking_board() -> gr.HTML:
    """Shows the caller's next task and sends the ranking. Holds no value on the server."""
    styles = "".join(f'<link rel="stylesheet" href="{asset_url(name)}">' for name in STYLES)
    return gr.HTML(
        html_template="".join((ASSETS / name).read_text(encoding="utf-8") for name in MARKUP),
        js_on_load="window.concord.board(element)",
        head=styles + scripts(*SCRIPTS),
        apply_default_css=False,
        elem_id="board",
    )


def board_page() -> gr.Blocks:
    """The page at `/board`."""
    with page_blocks("Rank") as blocks:
        ranking_board()
    return blocks
