"""The Review page in a real Chromium: how long it takes to open on 20,000 stored completions.

From the start of the navigation until the report's headline, its plots and the first rows of its table stand on the
page, which means that the browser has laid them out. Each opening has a new browser context, so nothing is in its
cache. Where other work keeps the processors busy, the processor seconds of server and browser tell what it costs.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from alignment.config import Config
from alignment.feedback import people
from alignment.workspace import Workspace
from benchmarks.load_browsers import chromium

OPENINGS = 5
RUN = "evaluate-1"
_SERVE = (
    "import sys; from pathlib import Path; from ui.app import serve; "
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
)
_SHOWN = (".finding", ".plots svg >> nth=0", "table tbody tr >> nth=0")


def openings(folder: Path, fill: Any, count: int = OPENINGS) -> dict[str, Any]:
    """Seconds until the page is there, and processor seconds of the server, of each opening; their medians.

    `fill(workspace)` puts the finished evaluation `evaluate-1` into the workspace.
    """
    with Workspace.create(folder, Config()) as workspace:
        fill(workspace)
        password = people.add_account(workspace.store, "reviewer", "reviewer")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", _SERVE, str(folder), str(port)])
    try:
        _answers(f"http://127.0.0.1:{port}/sign-in", server)
        rows = _open(f"http://127.0.0.1:{port}", password, psutil.Process(server.pid), count)
    finally:
        server.terminate()
        server.wait()
    medians = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    return {**medians, "processes waiting (load average)": psutil.getloadavg()[0], "openings": rows}


def _open(url: str, password: str, server: psutil.Process, count: int) -> list[dict[str, float]]:
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(count):
            context = browser.new_context(viewport={"width": 1280, "height": 1000})
            page = context.new_page()
            page.goto(f"{url}/sign-in")
            page.fill("#name", "reviewer")
            page.fill("#password", password)
            with page.expect_navigation(wait_until="commit"):
                page.click("button")
            page.goto("about:blank")
            before, started = (_busy(server), _browser_busy()), time.perf_counter()
            page.goto(f"{url}/review/?run={RUN}", wait_until="commit")
            report = page.frame_locator("iframe")
            for part in _SHOWN:
                report.locator(part).wait_for(timeout=60_000)
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "seconds": seconds,
                    "processor seconds of the server": _busy(server) - before[0],
                    "processor seconds of the browser": _browser_busy() - before[1],
                }
            )
            context.close()
        browser.close()
    return rows


def _busy(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


def _browser_busy() -> float:
    mine = psutil.Process().children(recursive=True)
    return sum(_busy(process) for process in mine if "chrom" in process.name())


def _answers(url: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("The server did not start.")
