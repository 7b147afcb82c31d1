"""`/reports/<run id>`: the HTML report of an evaluation run, shut in a sandbox; below it the files to download.

The report quotes completions. It is served with a policy that gives it no scripts, no network and an origin of its own,
whether it is embedded or opened by itself.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

from alignment.feedback import runs
from alignment.feedback.store import Store
from ui.evaluations import DOWNLOADS
from ui.run_files import run_folder

REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'self'"
)


def report_routes(store: Store, workspace: Path) -> APIRouter:
    """The route of the reports. The guard lets reviewers, engineers and admins in."""
    router = APIRouter(include_in_schema=False)

    @router.get("/reports/{run_id}")
    def report(run_id: str) -> FileResponse:
        if not any(run.run_id == run_id for run in runs.runs(store, "evaluate")):
            raise HTTPException(404, "There is no evaluation run of that name.")
        path = run_folder(workspace, run_id) / "report.html"
        if not path.is_file():
            raise HTTPException(404, "This run has no report yet.")
        return FileResponse(
            path,
            media_type="text/html",
            headers={"content-security-policy": REPORT_POLICY, "cache-control": "no-store"},
        )

    @router.get("/reports/{run_id}/{name}")
    def download(run_id: str, name: str) -> FileResponse:
        if name not in DOWNLOADS.values() or not any(
            run.run_id == run_id for run in runs.runs(store, "evaluate")
        ):
            raise HTTPException(404, "There is no such file of an evaluation.")
        path = run_folder(workspace, run_id) / name
        if not path.is_file():
            raise HTTPException(404, "This run has no such file.")
        return FileResponse(
            path,
            filename=f"{run_id}-{name}",
            headers={"content-security-policy": REPORT_POLICY, "cache-control": "no-store"},
        )

    return router
