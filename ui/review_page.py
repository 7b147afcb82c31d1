"""The review page: read evaluations, compare them, look at texts, let people judge blind, give a verdict."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gradio as gr

from alignment import review_stage
from alignment.errors import ConcordError
from alignment.evaluation.evaluation import COMPARISON_FILE
from alignment.feedback import blind, runs
from alignment.feedback.next_steps import awaiting_verdict
from alignment.feedback.people import Account
from alignment.feedback.runs import VERDICTS, Review, Run
from alignment.feedback.store import Store
from alignment.files import read_json
from ui import evaluations
from ui.access import Access
from ui.awaiting import awaiting_panel
from ui.guard import REVIEWERS
from ui.look import QUIET, SPOKEN, page_blocks, told
from ui.run_files import run_folder
from ui.shell import fragment
from ui.texts_tab import texts_tab
from ui.times import ago

MAX_COMMENT = 4000
_TONES = {"accept": "good", "reject": "bad", "needs work": "warn"}

# A reload and a link show the evaluation that was chosen.
_IN_THE_ADDRESS = (
    "(run) => { history.replaceState(null, '', '?run=' + encodeURIComponent(run)); return run; }"
)


def review_page(access: Access, store: Store, workspace: Path) -> gr.Blocks:
    """The page at `/review`."""

    def show(run_id: str | None, who: Account) -> list[Any]:
        """Values for the choice, report, reviews, form, table, what people said, the tab of texts, and what awaits."""
        there = evaluations.finished(store)
        awaits = awaiting_verdict(store)
        first = next((r for r in there if r in awaits), None) or next(iter(there), None)
        chosen = next((r for r in there if r.run_id == run_id), None) or first
        choices = [(_choice(run, store), run.run_id) for run in there]
        value = None if chosen is None else chosen.run_id
        return [
            gr.Dropdown(choices=choices, value=value, visible=bool(there)),
            report_frame(chosen, workspace),
            review_list(chosen, store, workspace),
            gr.Column(visible=chosen is not None),
            evaluations.runs_table(there, chosen, store),
            people_panel(chosen, store, who),
            gr.Tab(interactive=chosen is not None),
            awaiting_panel(store, who, awaits),
        ]

    def first(request: gr.Request) -> list[Any]:
        return show(request.query_params.get("run"), access.require(request, REVIEWERS))

    def choose(run_id: str | None, request: gr.Request) -> list[Any]:
        """Another evaluation; what was meant for the one before is not carried over."""
        return [*show(run_id, access.require(request, REVIEWERS)), None, ""]

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
        run = evaluations.finished_run(store, run_id)
        review = Review(run.run_id, who.account_id, verdict, comment)
        with told():
            review_stage.add_review(store, run_folder(workspace, run.run_id), review)
        gr.Info("Your verdict is stored.")
        return [*show(run_id, who), None, ""]

    def open_round(run_id: str | None, request: gr.Request) -> list[str]:
        who = access.require(request, REVIEWERS)
        run = evaluations.finished_run(store, run_id)
        folder = run_folder(workspace, run.run_id)
        with told():
            opened = review_stage.open_round(store, folder, run.run_id, who.account_id)
        gr.Info(f"{len(opened.pairs)} pairs wait on the page Compare, for you and for labelers.")
        awaits = awaiting_verdict(store)
        return [people_panel(run, store, who), awaiting_panel(store, who, awaits)]

    with page_blocks("Review") as blocks, gr.Column(elem_classes="c-body"):
        awaiting = gr.HTML(apply_default_css=False)
        with gr.Row(elem_classes="c-review"):
            with gr.Column(scale=3, min_width=360):
                choice = gr.Dropdown(label="Evaluation", choices=[], filterable=False)
                with gr.Tabs():
                    with gr.Tab("Report"):
                        page = gr.HTML(apply_default_css=False)
                    with gr.Tab("Texts", interactive=False) as tab:  # until a run is chosen
                        texts_tab(access, store, workspace, choice, tab)
                    with gr.Tab("All evaluations"):
                        table = gr.HTML(apply_default_css=False)
            with gr.Column(scale=1, min_width=300, visible=False, elem_classes="c-verdict") as form:
                people = gr.HTML(apply_default_css=False)
                open_button = gr.Button("Open a blind round", variant="secondary")
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
        outputs = [choice, page, reviews, form, table, people, tab, awaiting]
        blocks.load(first, outputs=outputs, **QUIET)
        choice.input(choose, choice, [*outputs, verdict, comment], js=_IN_THE_ADDRESS, **QUIET)
        open_button.click(open_round, choice, [people, awaiting], trigger_mode="once", **SPOKEN)
        send.click(judge, [choice, verdict, comment], [*outputs, verdict, comment], **SPOKEN)
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
        verdict=_finding(folder / COMPARISON_FILE),
        there=(folder / "report.html").is_file(),
        downloads=evaluations.downloads(folder, run),
    )


def review_list(run: Run | None, store: Store, workspace: Path) -> str:
    """The verdicts on a run, newest first; those on figures that have changed since are marked."""
    if run is None:
        return ""
    path = run_folder(workspace, run.run_id) / COMPARISON_FILE
    figures = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    rows = [
        {
            "review": review,
            "ago": ago(review.created),
            "tone": _TONES[review.verdict],
            "stale": review.figures is not None and review.figures != figures,
        }
        for review in reversed(runs.reviews(store, run.run_id))
    ]
    return fragment("reviews.html", rows=rows)


def people_panel(run: Run | None, store: Store, who: Account) -> str:
    """The blind rounds of a run; a round's result stays hidden from a judge who is in the middle of it."""
    if run is None:
        return ""
    rows = []
    for chosen in blind.rounds(store, run.run_id):
        done, left = blind.left_to_judge(store, chosen, who.account_id)
        found = blind.result(store, chosen)
        rows.append(
            {
                "pairs": len(chosen.pairs),
                "opened_by": chosen.opened_by,
                "ago": ago(chosen.created),
                "left": left if done else 0,
                "finding": found.finding if found else "",
            }
        )
    return fragment("blind_rounds.html", rows=rows)


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
