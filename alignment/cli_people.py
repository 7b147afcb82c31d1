"""`concord labelers quality|pause|resume|exclude|include|message|requalify|invite|password` and `concord tokens`.

What a project manager does about the people who rank, and keys for programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from alignment.cli_shared import JsonOption, WorkspaceOption, job, me, rows, show

tokens_app = typer.Typer(help="API tokens: keys for programs.", no_args_is_help=True)
_FIGURES = (
    "gold_pass",
    "self_consistency",
    "consensus_agreement",
    "seconds",
    "too_fast",
    "position_bias",
    "length_bias",
)

LabelerArgument = Annotated[str, typer.Argument(help="The labeler's name.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; the labeler is shown it, and it is recorded.")
]
UrlOption = Annotated[str, typer.Option(help="Where the labelers reach the served pages.")]
SERVED = "http://127.0.0.1:7860"
ByOption = Annotated[
    str | None, typer.Option("--by", help="Who decides; by default your name on this machine.")
]


def add_commands(labelers_app: typer.Typer) -> None:
    """Put the commands about people under `concord labelers`."""
    labelers_app.command("quality")(quality)
    labelers_app.command("invite")(invite)
    labelers_app.command("password")(password)
    for action, help_ in _DECISIONS.items():
        labelers_app.command(action, help=help_)(_decision(action))


_DECISIONS = {
    "pause": "Let a labeler submit nothing more for now; drafts are kept.",
    "resume": "End a pause.",
    "exclude": "Leave a labeler's rankings out of the consensus and give their tasks to others; reversible.",
    "include": "Take an exclusion back.",
    "message": "Tell a labeler something; it is shown on their board until read.",
    "requalify": "Send a labeler through practice again.",
}


def _decision(action: str) -> Any:
    def command(
        labeler: LabelerArgument,
        reason: ReasonOption,
        by: ByOption = None,
        workspace: WorkspaceOption = None,
        as_json: JsonOption = False,
    ) -> None:
        from alignment.feedback import standing

        with job(None, workspace, None, None) as opened:
            store = opened._store("workspace")
            decision = standing.decide(store, labeler, action, reason, by or me())
        figures = {"decision": decision, "labeler": labeler, "action": action, "reason": reason}
        show(figures, as_json, "Decision recorded")

    return command


def quality(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """How well each labeler ranks, every figure with its 95% interval."""
    from alignment import labelling

    with job(None, workspace, None, None) as opened:
        found = labelling.quality(opened._store("workspace"), opened.config.labelling)
    if as_json:
        typer.echo(json.dumps({"labelers": [q.to_json() for q in found]}, allow_nan=False))
        return
    table = [
        {
            "labeler_id": q.labeler_id,
            "state": q.state,
            "answers": q.answers,
            **{name: _figure(getattr(q, name)) for name in _FIGURES},
            "flags": " ".join(q.flags),
        }
        for q in found
    ]
    rows(table, ("labeler_id", "state", "answers", *_FIGURES, "flags"), False, "labelers")


def _figure(figure: Any) -> str:
    if figure is None:
        return "-"
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def invite(
    role: Annotated[str, typer.Option(help="labeler, engineer, reviewer or admin.")] = "labeler",
    url: UrlOption = SERVED,
    by: ByOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a link with which one person makes an account, once; prints it once."""
    from alignment.feedback import credentials

    made = _linked(
        workspace, url, lambda store, days: credentials.invite(store, role, by or me(), days)
    )
    show({"role": role, **made}, as_json, "Invitation made; the link is not kept")


def password(
    account: Annotated[str, typer.Argument(help="The account whose password is forgotten.")],
    url: UrlOption = SERVED,
    by: ByOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a link with which the owner of an account chooses a new password, once; prints it once."""
    from alignment.feedback import credentials

    made = _linked(
        workspace,
        url,
        lambda store, days: credentials.invite_back(store, account, by or me(), days),
    )
    show({"account": account, **made}, as_json, "Link to a new password made; it is not kept")


def _linked(
    workspace: Path | None, url: str, invite: Callable[[Any, float], str]
) -> dict[str, Any]:
    """The link whose secret `invite(store, days)` makes, and for how many days it is good."""
    with job(None, workspace, None, None) as opened:
        days = opened.config.labelling.invitation_days
        secret = invite(opened._store("workspace"), days)
    return {"link": f"{url.rstrip('/')}/invite/{secret}", "days": days}


@tokens_app.command("create")
def tokens_create(
    account: Annotated[str, typer.Argument(help="The account in whose name the token acts.")],
    name: Annotated[str, typer.Option(help="What it is for.")],
    days: Annotated[float, typer.Option(help="How long it lasts.")] = 90,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API token; prints it once."""
    from alignment.feedback import credentials

    with job(None, workspace, None, None) as opened:
        token_id, token = credentials.create_token(opened._store("workspace"), account, name, days)
    show({"token_id": token_id, "token": token}, as_json, "Token made; it is not kept")


@tokens_app.command("list")
def tokens_list(
    account: Annotated[str, typer.Argument(help="The account.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """The tokens of an account that can be used."""
    from alignment.feedback import credentials

    with job(None, workspace, None, None) as opened:
        found = credentials.tokens(opened._store("workspace"), account)
    rows(found, ("token_id", "name", "created", "expires", "last_used"), as_json, "tokens")


@tokens_app.command("revoke")
def tokens_revoke(
    account: Annotated[str, typer.Argument(help="The account.")],
    token_id: Annotated[int, typer.Argument(help="The token's number, as `tokens list` shows it.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token."""
    from alignment.feedback import credentials

    with job(None, workspace, None, None) as opened:
        credentials.revoke_token(opened._store("workspace"), account, token_id)
    show({"revoked": token_id}, as_json, "Token revoked")
