"""`concord gold` and `concord adjudicate`: orders that are known to be true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.cli_shared import JsonOption, WorkspaceOption, job, me, rows, show
from alignment.errors import InputError

ByOption = Annotated[
    str | None, typer.Option("--by", help="Who says so; by default the name of your login.")
]
CommentOption = Annotated[str, typer.Option("--comment", help="Why, for the record.")]
COLUMNS = ("order_id", "prompt_id", "source", "set_by", "ranks", "comment", "created")


gold_app = typer.Typer(
    help="Orders known to be true, which anchor the consensus.", no_args_is_help=True
)


@gold_app.command("import")
def gold_import(
    file: Annotated[
        Path, typer.Argument(help='JSONL: {"prompt_id", "ranks": {completion_id: rank}}.')
    ],
    by: ByOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add known orders to the workspace, all of the file or none."""
    from alignment.feedback import audit
    from alignment.feedback.known_orders import KnownOrder, set_known_orders
    from alignment.files import read_jsonl

    who = by or me()
    read = [replace(order, set_by=who) for order in read_jsonl(file, KnownOrder.from_json)]
    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        stored = set_known_orders(store, read)
        audit.record(store, who, "import gold", known_orders=len(stored))
    prompts = len({order.prompt_id for order in stored})
    show({"known_orders": len(stored), "prompts": prompts}, as_json, "Gold imported")


@gold_app.command("list")
def gold_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """The known orders that stand: gold and adjudications."""
    from alignment.feedback.known_orders import known_orders

    with job(None, workspace, None, None) as work:
        found = [order.to_json() for order in known_orders(work._store("workspace"))]
    rows(found, COLUMNS, as_json, "known_orders")


def adjudicate(
    prompt_id: Annotated[str, typer.Argument(help="The disputed prompt.")],
    ranks: Annotated[
        list[str] | None,
        typer.Option("--rank", help="COMPLETION_ID=RANK, 1 is best. Once for each completion."),
    ] = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take the adjudications of the prompt back.")
    ] = False,
    by: ByOption = None,
    comment: CommentOption = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle a disputed prompt by an expert's ranking, or take that back."""
    from alignment.feedback import known_orders as known

    if withdraw == bool(ranks):
        raise InputError(
            "Give the ranks, --rank COMPLETION_ID=RANK for each completion, or --withdraw."
        )
    who = by or me()
    with job(None, workspace, None, None) as work:
        store = work._store("workspace")
        figures: dict[str, Any] = {"prompt_id": prompt_id}
        if ranks:
            order = known.KnownOrder(prompt_id, _ranks(ranks), "adjudication", who, comment)
            figures["order_id"] = known.set_known_order(store, order).order_id
        else:
            figures["withdrawn"] = known.withdraw_adjudications(store, prompt_id, who, comment)
    show(figures, as_json, "Adjudication withdrawn" if withdraw else "Prompt settled")


def _ranks(assignments: list[str]) -> dict[str, int]:
    """`["a=1", "b=2"]` as ranks. An id may hold an equals sign; a rank does not."""
    ranks: dict[str, int] = {}
    for text in assignments:
        name, sign, rank = text.rpartition("=")
        if not sign or not name or not rank.isdecimal():
            raise InputError(
                f"--rank {text} is no COMPLETION_ID=RANK; ranks are whole numbers from 1 (best)."
            )
        if name in ranks:
            raise InputError(f"--rank gives the completion {name!r} two ranks.")
        ranks[name] = int(rank)
    return ranks
