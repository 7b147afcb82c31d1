"""The runs page: what ran, what came out, and the curves of a run while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from alignment.errors import ConcordError
from alignment.evaluation.plots import labeler_reliability
from alignment.feedback import runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from ui.access import Access
from ui.guard import ENGINEERS
from ui.look import page_blocks
from ui.run_files import curves, flatten, read_list, read_metrics, readable, run_folder
from ui.shell import fragment
from ui.times import ago, elapsed

MAX_CURVES = 12
REFRESH_SECONDS = 3
_COLOURS = ("#2e86c9", "#d9662b")  # those of the report
KEY_METRICS = (
    "toxicity_before",
    "toxicity_after",
    "toxicity_reduction",
    "accuracy",
    "labeler_agreement",
    "reward_last",
    "kl",
    "stop_reason",
    "usable_pairs",
    "krippendorff_alpha",
    "flagged",
    "completions",
    "rankings",
    "labelers",
)
_STAGES = {"evaluate": "evaluation"}
_SELECT_SCRIPT = """
element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-run]");
  if (!row || event.ctrlKey || event.metaKey || event.button !== 0) return;
  event.preventDefault();
  history.replaceState(null, "", "?run=" + encodeURIComponent(row.dataset.run));
  trigger("choose", { run_id: row.dataset.run });
});
"""


class Seen(NamedTuple):
    """What an open page shows at the moment, as hashes of its parts."""

    lists: int
    curves: int
    tables: int


NOTHING_SEEN = Seen(0, 0, 0)


def run_table() -> gr.HTML:
    """The list of runs. Its event `choose` carries the `run_id` of the row that was clicked."""
    return gr.HTML(js_on_load=_SELECT_SCRIPT, apply_default_css=False, elem_id="runs")


def runs_page(access: Access, store: Store, workspace: Path) -> gr.Blocks:
    """The page at `/runs`."""

    def choice(run_id: str | None) -> tuple[list[Run], Run | None]:
        all_runs = runs.runs(store)
        return all_runs, next(
            (r for r in all_runs if r.run_id == run_id), next(iter(all_runs), None)
        )

    def metrics_path(run: Run) -> Path:
        return run_folder(workspace, run.run_id) / "metrics.jsonl"

    def show(run_id: str | None, seen: Seen = NOTHING_SEEN) -> list[Any]:
        """Values for what is chosen and seen, the table, the head, the curves and the tables; nothing for those that
        would look as they do."""
        all_runs, run = choice(run_id)
        lists = run_list(all_runs, run), run_head(run)
        tables = run_tables(run, workspace)
        now = Seen(
            hash(lists), hash((run_id, run and _size(metrics_path(run)))), hash((run_id, tables))
        )
        panels = gr.skip()
        if now.curves != seen.curves:
            panels = [] if run is None else curves(read_metrics(metrics_path(run)))
        return [
            None if run is None else run.run_id,
            now,
            *(lists if now.lists != seen.lists else [gr.skip()] * 2),
            *(curve_slots(panels) if isinstance(panels, list) else [gr.skip()] * MAX_CURVES),
            tables if now.tables != seen.tables else gr.skip(),
        ]

    def first(request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        return show(request.query_params.get("run"))

    def choose(event: gr.EventData, request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        return show(str(event._data.get("run_id") if event._data else ""))

    def refresh(run_id: str | None, seen: Seen, request: gr.Request) -> list[Any]:
        access.require(request, ENGINEERS)
        return show(run_id, seen)

    with page_blocks("Runs") as blocks, gr.Column(elem_classes="c-body"):
        chosen, seen = gr.State(), gr.State(NOTHING_SEEN)
        table = run_table()
        head = gr.HTML(apply_default_css=False)
        with gr.Row(elem_classes="c-curves"):
            plots = [
                gr.LinePlot(x="step", y="value", visible=False, height=220, min_width=320)
                for _ in range(MAX_CURVES)
            ]
        tables = gr.HTML(apply_default_css=False)
        outputs = [chosen, seen, table, head, *plots, tables]
        quiet: dict[str, Any] = {
            "outputs": outputs,
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        blocks.load(first, **quiet)
        table.choose(choose, **quiet)
        gr.Timer(REFRESH_SECONDS).tick(refresh, [chosen, seen], **quiet)
    return blocks


def run_list(all_runs: list[Run], chosen: Run | None) -> str:
    """The table of runs."""
    rows = [
        {
            "run": run,
            "stage": _STAGES.get(run.stage, run.stage),
            "started": ago(run.started),
            "took": elapsed(run.started, run.ended),
            "metrics": key_metrics(run.metrics),
        }
        for run in all_runs
    ]
    return fragment("runs.html", rows=rows, chosen=None if chosen is None else chosen.run_id)


def key_metrics(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The few figures of a run that fit into its row, in words."""
    found = [(key, metrics[key]) for key in KEY_METRICS if metrics.get(key) is not None][:4]
    return [(key.replace("_", " "), _short(value)) for key, value in found]


def _short(value: Any) -> str:
    """A figure, or the mean of one that comes with its interval."""
    if isinstance(value, dict) and "mean" in value:
        value = value["mean"]
    return readable(round(value, 3) if isinstance(value, float) else value)


def run_head(run: Run | None) -> str:
    """The title of the chosen run."""
    if run is None:
        return ""
    return fragment(
        "run_head.html", run=run, started=ago(run.started), took=elapsed(run.started, run.ended)
    )


def run_tables(run: Run | None, workspace: Path) -> str:
    """The labelers of a consensus run, then metrics, configuration, inputs and versions of any run."""
    if run is None:
        return ""
    problem, labelers = "", []
    try:
        labelers = read_list(run_folder(workspace, run.run_id) / "labelers.json")
    except ConcordError as error:
        problem = str(error)
    sections = {
        "Metrics": run.metrics,
        "Configuration": run.config,
        "Read": run.inputs,
        "Versions": run.versions,
    }
    return fragment(
        "run_tables.html",
        problem=problem,
        labelers=labelers,
        picture=labeler_reliability(labelers) if labelers else "",
        sections={title: flatten(tree) for title, tree in sections.items() if tree},
        readable=readable,
    )


def curve_slots(panels: list[tuple[str, list[dict[str, Any]]]]) -> list[Any]:
    """Updates for the page's `MAX_CURVES` plots: those of the run, the rest hidden."""
    drawn = [_plot(title, points) for title, points in panels[:MAX_CURVES]]
    return drawn + [gr.LinePlot(visible=False) for _ in range(MAX_CURVES - len(drawn))]


def _size(path: Path) -> int:
    """Bytes of a growing file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _plot(title: str, points: list[dict[str, Any]]) -> gr.LinePlot:
    frame = pd.DataFrame(points)
    names = list(dict.fromkeys(point["series"] for point in points))
    return gr.LinePlot(
        frame,
        x="step",
        y="value",
        color="series" if len(names) > 1 else None,
        color_title=" ",
        title=title,
        x_title="iteration or step",
        y_title=" ",
        visible=True,
        color_map=dict(zip(names, _COLOURS, strict=False)),
    )
