"""What a project manager does about labelers: quality, decisions, invitations, and the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from alignment import labelling
from alignment.feedback import audit, credentials, standing
from alignment.feedback.people import Account
from ui.api_models import Body
from ui.callers import CSRF, one_of
from ui.desk import Desk
from ui.guard import ENGINEERS

Manager = Annotated[Account, Depends(one_of(ENGINEERS))]


class Reason(Body):
    """Why: it is recorded, and a labeler who is paused or excluded is shown it."""

    reason: Annotated[
        str, Field(min_length=1, max_length=standing.MAX_DECISION_REASON, pattern=r"\S")
    ]


class Decided(BaseModel):
    decision_id: int


class ShownFigure(BaseModel):
    value: float
    low: float
    high: float
    count: int


class ShownQuality(BaseModel):
    """One labeler; a figure that cannot be told is null, and `undefined` says why."""

    labeler_id: str
    simulated: bool
    state: str
    answers: int
    skips: int
    none_acceptable: int
    gold_pass: ShownFigure | None
    self_consistency: ShownFigure | None
    seconds: ShownFigure | None
    too_fast: ShownFigure | None
    position_bias: ShownFigure | None
    length_bias: ShownFigure | None
    consensus_agreement: ShownFigure | None
    undefined: dict[str, str]
    flags: list[str]


class QualityTable(BaseModel):
    """`strategy`: which run decides the order of tasks, or why none does; null where the strategy needs none."""

    labelers: list[ShownQuality]
    strategy: str | None


class NewInvitation(Body):
    """`account`: an account that exists, whose owner has forgotten the password; its role is the one that counts."""

    role: Literal["labeler", "engineer", "reviewer", "admin"] = "labeler"
    account: Annotated[str | None, Field(max_length=64)] = None


class Invitation(BaseModel):
    """A link that makes one account, or gives one a new password, once. It is shown only now."""

    role: str
    path: str
    url: str
    days: float


class AuditEntry(BaseModel):
    audit_id: int
    at: str
    who: str
    action: str
    subject: str
    detail: dict[str, Any]


def people_routes(desk: Desk) -> APIRouter:
    """Routes for engineers and admins."""
    router = APIRouter(tags=["people"], dependencies=[Depends(one_of(ENGINEERS))])
    store = desk.store

    @router.get("/quality")
    def quality() -> QualityTable:
        """How well each labeler ranks, every figure with its 95% interval."""
        rows = labelling.quality(store, desk.rules)
        return QualityTable(
            labelers=[ShownQuality(**row.to_json()) for row in rows], strategy=desk.strategy_note
        )

    @router.post("/labelers/{labeler_id}/{action}", dependencies=[CSRF])
    def decide(
        labeler_id: str,
        action: Literal["pause", "resume", "exclude", "include", "message", "requalify"],
        body: Reason,
        who: Manager,
    ) -> Decided:
        """Record a decision about a labeler; it takes effect at once and can be reversed by another."""
        return Decided(
            decision_id=standing.decide(store, labeler_id, action, body.reason, who.account_id)
        )

    @router.post("/invitations", dependencies=[CSRF])
    def invite(body: NewInvitation, who: Manager, request: Request) -> Invitation:
        """Make a link for one new account, or for the owner of one who has forgotten its password.

        Only an admin invites engineers and admins.
        """
        days = desk.rules.invitation_days
        role, secret = credentials.invite_as(store, who, body.role, body.account, days)
        url = request.url_for("invited", secret=secret)
        return Invitation(role=role, path=url.path, url=str(url), days=days)

    @router.get("/audit")
    def audit_log(
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
        who: str | None = None,
        action: str | None = None,
    ) -> list[AuditEntry]:
        """Who did what when, newest first."""
        rows = audit.entries(store, limit, who=who, action=action)
        return [AuditEntry(**row) for row in rows]

    return router
