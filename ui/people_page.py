"""The people page: how well each labeler ranks, what was decided about them, invitations and new passwords."""

from __future__ import annotations

from typing import Any

import gradio as gr

from alignment import labelling
from alignment.feedback import audit, credentials, standing
from alignment.feedback.quality import Figure
from ui.access import Access
from ui.desk import Desk
from ui.guard import ENGINEERS
from ui.look import QUIET, SPOKEN, page_blocks, told
from ui.shell import fragment
from ui.times import ago

_COLUMNS = (
    ("gold_pass", "Gold passed", "percent"),
    ("self_consistency", "Repeats alike", "percent"),
    ("consensus_agreement", "With consensus", "percent"),
    ("seconds", "Seconds", "number"),
    ("too_fast", "Too fast", "percent"),
    ("position_bias", "Position bias", "signed"),
    ("length_bias", "Length bias", "signed"),
)
_FORMATS = {"percent": "{:.0%}", "number": "{:.1f}", "signed": "{:+.2f}"}
AUDIT_ROWS = 40


def people_page(access: Access, desk: Desk) -> gr.Blocks:
    """The page at `/people`, for engineers and admins."""
    store = desk.store

    def show() -> list[Any]:
        """The choice of labelers, the table, the decisions and the log."""
        rows = labelling.quality(store, desk.rules)
        names = [row.labeler_id for row in rows]
        return [gr.Dropdown(choices=names), *_tables(rows, desk)]

    def first(request: gr.Request) -> list[Any]:
        who = access.require(request, ENGINEERS)
        return [gr.Dropdown(choices=list(credentials.may_invite(who.role))), *show()]

    def decide(
        labeler_id: str | None, action: str | None, reason: str | None, request: gr.Request
    ) -> list[Any]:
        who = access.require(request, ENGINEERS)
        if not labeler_id or not action:
            raise gr.Error("Choose a labeler and a decision first.", print_exception=False)
        with told():
            standing.decide(store, labeler_id, action, reason or "", who.account_id)
        gr.Info("The decision is recorded and in force.")
        return [*show(), ""]

    def link_for(request: gr.Request, role: str, account_id: str | None) -> list[Any]:
        """A fresh link, and everything else as it is now."""
        who = access.require(request, ENGINEERS)
        days = desk.rules.invitation_days
        with told():
            _, secret = credentials.invite_as(store, who, role, account_id, days)
        link = f"{request.headers.get('origin', '')}/invite/{secret}"
        return [fragment("invitation.html", link=link, days=days, owner=account_id), *show()]

    def invite(role: str | None, request: gr.Request) -> list[Any]:
        return link_for(request, str(role), None)

    def invite_back(labeler_id: str | None, request: gr.Request) -> list[Any]:
        if not labeler_id:
            raise gr.Error(
                "Choose under Labeler whose password is forgotten.", print_exception=False
            )
        return link_for(request, "", labeler_id)

    with page_blocks("People") as blocks, gr.Column(elem_classes="c-body"):
        table = gr.HTML(apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                labeler = gr.Dropdown(label="Labeler", choices=[])
                action = gr.Radio(
                    [(word.capitalize(), word) for word in standing.ACTIONS], label="Decision"
                )
                reason = gr.Textbox(
                    label="Reason (the labeler is shown it)",
                    lines=2,
                    max_length=standing.MAX_DECISION_REASON,
                )
                send = gr.Button("Record decision", variant="primary")
            with gr.Column(scale=1, min_width=280):
                role = gr.Dropdown(label="Invite a", choices=["labeler"], value="labeler")
                make = gr.Button("Make a link")
                back = gr.Button("New password for the labeler chosen")
                link = gr.HTML(apply_default_css=False)
        decisions = gr.HTML(apply_default_css=False)
        outputs = [labeler, table, decisions]
        blocks.load(first, outputs=[role, *outputs], **QUIET)
        send.click(decide, [labeler, action, reason], [*outputs, reason], **SPOKEN)
        make.click(invite, role, [link, *outputs], **SPOKEN)
        back.click(invite_back, labeler, [link, *outputs], **SPOKEN)
    return blocks


def _tables(rows: list[Any], desk: Desk) -> list[str]:
    shown = [
        {
            "row": row,
            "cells": [_cell(getattr(row, name), kind, row.undefined.get(name)) for name, _, kind in _COLUMNS],
        }
        for row in rows
    ]  # fmt: skip
    decided = [{**d, "ago": ago(d["created"])} for d in standing.decisions(desk.store)[:AUDIT_ROWS]]
    log = [{**e, "ago": ago(e["at"])} for e in audit.entries(desk.store, AUDIT_ROWS)]
    titles = [title for _, title, _ in _COLUMNS]
    return [
        fragment("people.html", titles=titles, rows=shown, strategy=desk.strategy_note),
        fragment("decisions.html", decisions=decided, log=log),
    ]


def _cell(figure: Figure | None, kind: str, why: str | None) -> dict[str, str]:
    if figure is None:
        return {"value": "–", "interval": "", "why": why or ""}
    form = _FORMATS[kind]
    interval = f"{form.format(figure.low)} to {form.format(figure.high)}"
    return {"value": form.format(figure.value), "interval": interval, "why": f"of {figure.count}"}
