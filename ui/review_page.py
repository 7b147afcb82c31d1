"""The review page: read the report of an evaluation, give a verdict, see the verdicts of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from alignment.errors import ConcordError
from alignment.feedback import runs
from alignment.feedback.runs import VERDICTS, Review, Run
from alignment.feedback.store import Store
from alignment.files import read_json
from ui.access import Access
from ui.guard import REVIEWERS
from ui.look import page_blocks
from ui.run_files import run_folder
from ui.shell import fragment
from ui.times import ago

MAX_COMMENT = 4000
_TONES = {"accept": "good", "reject": "bad", "needs work": "warn"}


def review_page(access: Access, store: Store, workspace: Path) -> gr.Blocks:
    """The page at `/review`."""

    def finished() -> list[Run]:
        return [run for run in runs.runs(store, "evaluate") if run.status == "finished"]

    def show(run_id: str | None) -> list[Any]:
        """Values for the choice, the report, the reviews and the form."""
        there = finished()
        chosen = next((r for r in there if r.run_id == run_id), None) or next(iter(there), None)
        choices = [(_choice(run, store), run.run_id) for run in there]
        value = None if chosen is None else chosen.run_id
        return [
            gr.Dropdown(choices=choices, value=value, visible=bool(there)),
            report_frame(chosen, workspace),
            review_list(chosen, store),
            gr.Column(visible=chosen is not None),
        ]

    def first(request: gr.Request) -> list[Any]:
        access.require(request, REVIEWERS)
        return show(request.query_params.get("run"))

    def choose(run_id: str | None, request: gr.Request) -> list[Any]:
        access.require(request, REVIEWERS)
        return show(run_id)

    def judge(
        run_id: str | None, verdict: str | None, comment: str | None, request: gr.Request
    ) -> list[Any]:
        who = access.require(request, REVIEWERS)
        comment = (comment or "").strip()
        if run_id is None or verdict is None:
            raise gr.Error("Choose a verdict first.", print_exception=False)
        if len(comment) > MAX_COMMENT:
            raise gr.Error(
                f"The comment is longer than {MAX_COMMENT} characters.", print_exception=False
            )
        if run_id not in {run.run_id for run in finished()}:
            raise gr.Error("Only a finished evaluation can be reviewed.", print_exception=False)
        try:
            runs.add_review(store, Review(run_id, who.account_id, verdict, comment))
        except ConcordError as error:
            raise gr.Error(str(error), print_exception=False) from None
        gr.Info("Your verdict is stored.")
        return [*show(run_id), None, ""]

    with page_blocks("Review") as blocks, gr.Column(elem_classes="c-body"):
        with gr.Row(elem_classes="c-review"):
            with gr.Column(scale=3, min_width=360):
                choice = gr.Dropdown(label="Evaluation", choices=[], filterable=False)
                page = gr.HTML(apply_default_css=False)
            with gr.Column(scale=1, min_width=300, visible=False, elem_classes="c-verdict") as form:
                verdict = gr.Radio(
                    [(word.capitalize(), word) for word in VERDICTS], label="Your verdict"
                )
                comment = gr.Textbox(
                    label="Comment",
                    lines=4,
                    placeholder="What did you see?",
                    max_length=MAX_COMMENT,
                )
                send = gr.Button("Store verdict", variant="primary")
                reviews = gr.HTML(apply_default_css=False)
        outputs = [choice, page, reviews, form]
        quiet: dict[str, Any] = {
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        blocks.load(first, outputs=outputs, **quiet)
        choice.input(choose, choice, outputs, **quiet)
        send.click(judge, [choice, verdict, comment], [*outputs, verdict, comment], **quiet)
    return blocks


def report_frame(run: Run | None, workspace: Path) -> str:
    """The report of a run in a sandboxed frame, or why there is none."""
    if run is None:
        return fragment("report.html", run=None)
    folder = run_folder(workspace, run.run_id)
    return fragment(
        "report.html",
        run=run,
        started=ago(run.started),
        verdict=_finding(folder / "comparison.json"),
        there=(folder / "report.html").is_file(),
    )


def review_list(run: Run | None, store: Store) -> str:
    """The verdicts on a run, newest first."""
    if run is None:
        return ""
    rows = [
        {"review": review, "ago": ago(review.created), "tone": _TONES[review.verdict]}
        for review in reversed(runs.reviews(store, run.run_id))
    ]
    return fragment("reviews.html", rows=rows)


def _choice(run: Run, store: Store) -> str:
    given = runs.reviews(store, run.run_id)
    state = given[-1].verdict if given else "awaits a verdict"
    return f"{run.run_id} · {ago(run.started)} · {state}"


def _finding(path: Path) -> str:
    """The verdict in `comparison.json`, in words; an empty text where there is none."""
    try:
        comparison = read_json(path)
    except ConcordError:
        return ""
    found = comparison.get("verdict") if isinstance(comparison, dict) else None
    return found if isinstance(found, str) else ""
