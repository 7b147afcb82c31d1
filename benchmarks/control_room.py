"""What 20 open control rooms cost the server while a run writes an iteration a second, and how late they show it.

    python -m benchmarks.control_room [--pages 20] [--browsers 20] [--seconds 60] [--json FILE]

A workspace with 30 runs is served; one of them is a PPO run of 2,000 iterations that goes on. Each page is an HTTP
client in a thread that asks as the page's script does: `/api/runs/live` 1.5 s after the last answer, by ETag, with
how much of the run's files it has. The same server is measured first with nobody there; the cost is the difference
of its CPU seconds per second. On a busy machine the pages are answered less often: what they would cost
at their full pace is computed from the cost of an answer, and held against the bar. Then as many windows of a real
Chromium are opened on the page, which hold Gradio's own connections too; where none is installed, that is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from alignment.config import Config
from alignment.feedback import people, runs
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from alignment.records import Prompt
from alignment.training.ppo_watch import FIGURES
from alignment.workspace import Workspace
from benchmarks.load_browsers import chromium

LOOK_SECONDS = 1.5  # as ui/assets/runs.js
ITERATIONS, OLDER_RUNS = 2000, 30
LIVE, ENGINEER, PASSWORD = "ppo-live", "engineer", "twenty pages are open"
MOST_OF_A_CORE, LATEST_SECONDS = 0.05, 2.0
_SERVE = (
    "import sys; from pathlib import Path; from ui.app import serve; "
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
)


@dataclass
class Seen:
    """What the pages saw: seconds from writing an iteration to having it, answers of each kind, errors."""

    late: list[float] = field(default_factory=list)
    answers: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def row(iteration: int) -> dict[str, Any]:
    """An iteration's figures, of the shape that the PPO trainer writes."""
    names = (*FIGURES.values(), "seconds", "tokens_per_second")
    figures = {name: random.gauss(0.5, 0.1) for name in names}
    if iteration % 5 == 0:
        figures |= {name: random.random() for name in ("eval_reward", "eval_cost", "eval_toxicity")}
    return {"iteration": iteration, **figures, "written": time.time()}


def make_workspace(folder: Path) -> None:
    with Workspace.create(folder, Config()) as made:
        store = made.store
        store.add_prompts([Prompt(f"p{n}", f"prompt {n}") for n in range(50)])
        people.add_account(store, ENGINEER, "engineer", PASSWORD)
        for n in range(OLDER_RUNS):
            stage = ("consensus", "reward", "ppo", "evaluate")[n % 4]
            add_run(store, folder, Run(f"{stage}-{n}", stage, {"seed": n}, "finished"))
        options = Config().ppo.model_dump(mode="json")
        add_run(store, folder, Run(LIVE, "ppo", options, "running"))
    with (folder / "runs" / LIVE / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(row(n)) + "\n" for n in range(1, ITERATIONS + 1))
    with (folder / "runs" / LIVE / "samples.jsonl").open("w") as file:
        sample = {"prompt": "Say something.", "completion": "You are kind. " * 8, "reward": 0.5}
        file.writelines(
            json.dumps({"iteration": n, **sample}) + "\n" for n in range(1, ITERATIONS + 1)
        )


def add_run(store: Store, folder: Path, run: Run) -> None:
    where = folder / "runs" / run.run_id
    where.mkdir(parents=True)
    figures = {"reward_last": 0.5, "kl": 3.0, "accuracy": 0.8, "toxicity_after": 0.1}
    known = {**run.to_json(), "folder": str(where), "metrics": figures}
    runs.save_run(store, Run(**known))


def train(folder: Path, ended: threading.Event) -> None:
    """Write an iteration a second, with its progress and a sample, as a run does."""
    where, iteration = folder / "runs" / LIVE, ITERATIONS
    while not ended.wait(1.0):
        iteration += 1
        at = {"label": "PPO", "done": iteration, "total": 9000, "note": "", "updated": time.time()}
        (where / "progress.json").write_text(json.dumps({**at, "seconds_left": 60.0}))
        for name in ("samples.jsonl", "metrics.jsonl"):
            with (where / name).open("a") as file:
                file.write(json.dumps(row(iteration)) + "\n")


def look(url: str, cookies: httpx.Cookies, ended: threading.Event, seen: Seen) -> None:
    """One open page."""
    ends, tag = {"metrics": 0, "samples": 0, "warnings": 0}, None
    time.sleep(random.uniform(0, LOOK_SECONDS))
    with httpx.Client(base_url=url, cookies=cookies, timeout=30, trust_env=False) as client:
        opened = True
        while not ended.is_set():
            try:
                headers = {} if tag is None else {"If-None-Match": tag}
                found = client.get("/api/runs/live", params={"run": LIVE, **ends}, headers=headers)
                seen.answers[found.status_code] = seen.answers.get(found.status_code, 0) + 1
                if found.status_code == 200:
                    tag = found.headers["etag"]
                    told = found.json()
                    for name, more in told["more"].items():
                        take(name, more, ends, None if opened else seen)
                    follow(client, told["run"]["sizes"], ends, None if opened else seen)
                    opened = False
            except (httpx.HTTPError, KeyError, ValueError) as error:
                seen.errors.append(repr(error))
            ended.wait(LOOK_SECONDS)


def follow(
    client: httpx.Client, sizes: dict[str, int], ends: dict[str, int], seen: Seen | None
) -> None:
    """Fetch what has been added to the run's files."""
    for name in ends:
        while sizes[name] > ends[name]:
            more = client.get(f"/api/runs/{LIVE}/lines/{name}?start={ends[name]}").json()
            if more["end"] == ends[name]:
                break
            take(name, more, ends, seen)


def take(name: str, more: dict[str, Any], ends: dict[str, int], seen: Seen | None) -> None:
    """Keep what has come."""
    ends[name] = more["end"]
    if name == "metrics" and seen is not None:
        seen.late += [time.time() - one["written"] for one in more["rows"]]


def sign_in(url: str) -> httpx.Cookies:
    with httpx.Client(base_url=url, trust_env=False) as client:
        token = re.search(r'name="token" value="([^"]+)"', client.get("/sign-in").text)
        form = {"name": ENGINEER, "password": PASSWORD, "token": token[1] if token else ""}
        if client.post("/sign-in", data=form).status_code != 303:
            raise SystemExit("The engineer could not sign in.")
        return client.cookies


def cpu_share(process: psutil.Process, seconds: float) -> float:
    """CPU seconds of the process for each second that passes."""

    def spent() -> float:
        times = process.cpu_times()
        return times.user + times.system

    before, began = spent(), time.monotonic()
    time.sleep(seconds)
    return (spent() - before) / (time.monotonic() - began)


def windows(url: str, process: psutil.Process, many: int, seconds: float) -> dict[str, Any]:
    """What `many` windows of a real browser cost the server: its CPU seconds per second, less those without them."""
    from playwright.sync_api import sync_playwright

    looks = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/api/runs/live')).length"
    alone = cpu_share(process, seconds)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        pages = []
        for n in range(many):
            page = browser.new_context().new_page()
            page.goto(f"{url}/sign-in")
            page.fill("#name", ENGINEER)
            page.fill("#password", PASSWORD)
            page.click("button")
            page.goto(f"{url}/runs/?run={LIVE}")
            page.locator(".r-head h1").wait_for(timeout=120_000)
            page.evaluate("performance.setResourceTimingBufferSize(100000)")
            pages.append(page)
            print(f"window {n + 1} of {many} is open", file=sys.stderr)
        time.sleep(10)
        before = [page.evaluate(looks) for page in pages]
        began = time.monotonic()
        busy = cpu_share(process, seconds)
        looked = [page.evaluate(looks) - had for page, had in zip(pages, before, strict=True)]
        passed = time.monotonic() - began
        browser.close()
    each = (busy - alone) / max(sum(looked) / passed, 1e-9)
    return {
        "windows": many,
        "core_of_windows": round(busy - alone, 4),
        "window_looks_per_second": round(sum(looked) / passed, 2),
        "window_least_looks": min(looked),
        "core_of_windows_at_full_pace": round(each * many / LOOK_SECONDS, 4),
    }


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            httpx.get(f"{url}/sign-in", timeout=5, trust_env=False)
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("The server did not answer.")


def measure(folder: Path, pages: int, seconds: float, browsers: int = 0) -> dict[str, Any]:
    make_workspace(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", _SERVE, str(folder), str(port)])
    ended, seen, url = threading.Event(), Seen(), f"http://127.0.0.1:{port}"
    gone, shown = threading.Event(), {}
    threads = [threading.Thread(target=train, args=(folder, ended))]
    try:
        wait_for(url)
        threads[0].start()
        process = psutil.Process(server.pid)
        time.sleep(5)
        alone = cpu_share(process, seconds)
        cookies = sign_in(url)
        threads += [
            threading.Thread(target=look, args=(url, cookies, gone, seen)) for _ in range(pages)
        ]
        for thread in threads[1:]:
            thread.start()
        time.sleep(10)  # they have fetched what was there before
        seen.late.clear()
        seen.answers.clear()
        busy = cpu_share(process, seconds)
        pace = sum(seen.answers.values()) / seconds
        gone.set()
        if browsers:
            for thread in threads[1:]:
                thread.join()
            shown = windows(url, process, browsers, seconds)
    finally:
        ended.set()
        gone.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        server.terminate()
        server.wait()
    late, each = np.array(seen.late or [np.nan]), (busy - alone) / max(pace, 1e-9)
    return {
        "pages": pages,
        "seconds": seconds,
        "core_alone": round(alone, 4),
        "core_with_pages": round(busy, 4),
        "core_of_pages": round(busy - alone, 4),
        "answers_per_second": round(pace, 1),
        "ms_per_answer": round(1000 * each, 2),
        "core_at_full_pace": round(each * pages / LOOK_SECONDS, 4),
        "late_median": round(float(np.median(late)), 2),
        "late_95": round(float(np.quantile(late, 0.95)), 2),
        "late_most": round(float(late.max()), 2),
        "answers": seen.answers,
        "errors": seen.errors[:5],
        **shown,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--browsers", type=int, default=20, help="windows of a real Chromium")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="ten seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the figures that the run writes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    random.seed(options.seed)
    seconds = 10.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="concord-room-") as folder:
        browsers = options.browsers if chromium() else 0
        figures = measure(Path(folder) / "workspace", options.pages, seconds, browsers)
    print(f"{options.pages} pages take {100 * figures['core_at_full_pace']:.1f}% of a core")
    if browsers:
        share = 100 * figures["core_of_windows_at_full_pace"]
        print(f"{browsers} windows of a browser take {share:.1f}% of a core")
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    cost = max(figures["core_at_full_pace"], figures.get("core_of_windows_at_full_pace", 0.0))
    if cost > MOST_OF_A_CORE or not figures["late_95"] <= LATEST_SECONDS:
        sys.exit("Not as it must be: at most 5% of a core, and 19 of 20 iterations within 2 s.")


if __name__ == "__main__":
    main()
