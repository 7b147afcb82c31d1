"""What engineers bring in and take out: prompts and completions; rankings, pairs and labelers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import StreamingResponse

from alignment import exchange
from alignment.errors import InputError
from alignment.feedback import audit
from alignment.feedback.people import Account
from ui.api_models import Body
from ui.callers import CSRF, one_of
from ui.desk import Desk
from ui.guard import ENGINEERS

Engineer = Annotated[Account, Depends(one_of(ENGINEERS))]


class HubDataset(Body):
    """A data set of the Hugging Face hub. `columns`: our column (prompt, text, ...) -> the data set's."""

    dataset: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    split: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w.\[\]:%+-]+$")] = (
        "train"
    )
    limit: Annotated[int, Field(ge=1, le=exchange.MAX_HUB_ROWS)] = 1000
    columns: Annotated[dict[str, str], Field(max_length=20, default_factory=dict)]


class Imported(BaseModel):
    """Rows read, and what they became."""

    read: int
    added: int | None = None
    completions: int | None = None
    tasks: int | None = None


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
            "application/json": {"schema": HubDataset.model_json_schema()},
        },
    }
}


def data_routes(desk: Desk) -> APIRouter:
    """`/import/{what}` and `/export/{what}`, for engineers and admins."""
    router = APIRouter(tags=["data"], dependencies=[Depends(one_of(ENGINEERS))])
    store = desk.store

    @router.post("/import/{what}", dependencies=[CSRF], openapi_extra=_BODY)
    async def import_(
        what: Literal["prompts", "completions"], who: Engineer, request: Request
    ) -> Imported:
        """Add prompts, or completions as tasks: JSONL (application/x-ndjson), CSV (text/csv), or the name of a data set
        of the hub (application/json). All rows are added, or none."""
        content = await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Imported(**await run_in_threadpool(work, what, who, kind, content))

    def work(what: str, who: Account, kind: str, content: bytes) -> dict[str, int]:
        rows = _rows(kind, content)
        if what == "prompts":
            figures = exchange.import_prompts(store, rows)
        else:
            figures = exchange.import_completions(store, rows, desk.rules.overlap)
        audit.record(store, who.account_id, f"import {what}", "", **figures)
        return figures

    @router.get("/export/{what}", response_class=StreamingResponse, responses={200: _JSONL})
    def export(
        what: Literal["rankings", "pairs", "labelers"],
        who: Engineer,
        columns: Annotated[
            Literal["all", "trl"], Query(description="trl: prompt, chosen and rejected only")
        ] = "all",
    ) -> StreamingResponse:
        """JSONL: standing rankings; preference pairs of the latest consensus as TRL and DPO read them; labelers."""
        rows = exchange.export_rows(store, what, only_trl=columns == "trl")
        audit.record(store, who.account_id, f"export {what}", "", rows=len(rows))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        name = {"content-disposition": f'attachment; filename="{what}.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=name)

    return router


_JSONL: dict[str, Any] = {
    "description": "One JSON object a line.",
    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
}


def _rows(kind: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a body of that content type. `InputError` where it is of none that is known."""
    if kind == "application/json":
        try:
            asked = HubDataset.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "body"
            raise InputError(f"{place}: {first['msg']}.") from None
        rows = exchange.hub_rows(asked.dataset, asked.split, asked.limit)
        return exchange.renamed(rows, asked.columns)
    formats = {"application/x-ndjson": "jsonl", "application/jsonl": "jsonl", "text/csv": "csv"}
    if kind not in formats:
        raise InputError(
            "Send JSONL as application/x-ndjson, CSV as text/csv, or the name of a data set as application/json."
        )
    return exchange.parse_rows(content, formats[kind])
