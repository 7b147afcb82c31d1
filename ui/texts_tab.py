"""The tab of the Review page that shows all texts side by side, filtered and page by page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from alignment.feedback.store import Store
from ui import evaluations
from ui.access import Access
from ui.guard import REVIEWERS
from ui.look import QUIET, told
from ui.run_files import run_folder

LONGEST_SEARCH = 200


def texts_tab(
    access: Access, store: Store, workspace: Path, choice: gr.Dropdown, tab: gr.Tab
) -> None:
    """Fill `tab`. `choice` holds the run; read when the tab is opened, and when another run is chosen."""

    def folder_of(run_id: str | None, request: gr.Request) -> Path:
        access.require(request, REVIEWERS)
        return run_folder(workspace, evaluations.finished_run(store, run_id).run_id)

    def filters(run_id: str | None, request: gr.Request) -> list[Any]:
        """The choices of the filters and the first page."""
        folder = folder_of(run_id, request)
        with told():
            found, _ = evaluations.evaluation_in(folder)
            names = evaluations.categories_in(folder)
            html, pages = evaluations.texts(folder, None, None, "", "", "", 1)
        models = [model.name for model in found.models[1:]]
        cards = [card.name for card in found.scorers]
        return [
            gr.Dropdown(choices=models, value=found.candidate, visible=len(models) > 1),
            gr.Dropdown(choices=cards, value=found.card().name, visible=len(cards) > 1),
            gr.Dropdown(choices=names, value=names[0], visible=len(names) > 1),
            "",
            "",
            gr.Number(value=1, maximum=pages, label=f"Page, of {pages}"),
            html,
        ]

    def look(
        run_id: str | None,
        model: str | None,
        scorer: str | None,
        category: str | None,
        change: str | None,
        search: str | None,
        page: float | None,
        request: gr.Request,
    ) -> list[Any]:
        """The page that is asked for; the first one after a filter has changed."""
        folder = folder_of(run_id, request)
        words = (search or "")[:LONGEST_SEARCH]
        at = max(1, int(page or 1))
        with told():
            html, pages = evaluations.texts(
                folder, model, scorer, category or "", change or "", words, at
            )
        return [html, gr.Number(value=min(at, pages), maximum=pages, label=f"Page, of {pages}")]

    with gr.Row():
        model = gr.Dropdown(label="Model", choices=[], visible=False, min_width=190)
        scorer = gr.Dropdown(label="Scorer", choices=[], visible=False, min_width=190)
        category = gr.Dropdown(label="Category", choices=[], visible=False, min_width=190)
        changes = list(evaluations.CHANGES.items())
        change = gr.Dropdown(
            label="Change", choices=changes, value="", filterable=False, min_width=190
        )
        search = gr.Textbox(label="Words, then Enter", max_length=LONGEST_SEARCH, min_width=190)
        number = gr.Number(label="Page", value=1, minimum=1, precision=0, step=1, min_width=190)
    sides = gr.HTML(apply_default_css=False)
    asked = [choice, model, scorer, category, change, search]
    first = gr.State(1)
    fields = [model, scorer, category, change, search, number, sides]
    tab.select(filters, choice, fields, **QUIET)
    choice.input(filters, choice, fields, **QUIET)
    for part in (model.input, scorer.input, category.input, change.input, search.submit):
        part(look, [*asked, first], [sides, number], **QUIET)
    number.input(look, [*asked, number], [sides, number], **QUIET)
