"""A few of the labelers of `benchmarks.load` sit at real browsers: they rank by keys, as a person would."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from dataclasses import dataclass, field

DEADLINE_SECONDS = 600


@dataclass
class Browsed:
    """What the browsers saw: confirmed rankings (labeler, token, ranks), and what went wrong."""

    confirmed: list[tuple[str, str, dict[str, int]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def chromium() -> str | None:
    """The browser's program, or None."""
    return os.environ.get("CONCORD_CHROMIUM") or shutil.which("chromium")


def start_browsers(
    names: list[str], url: str, password: str, answers: int, think: tuple[float, float]
) -> tuple[list[threading.Thread], Browsed]:
    """One browser in a thread of its own for each name; they stop after `answers` confirmed rankings each."""
    seen = Browsed()
    threads = [
        threading.Thread(target=_sit, args=(name, url, password, answers, think, seen))
        for name in names
    ]
    for thread in threads:
        thread.start()
    return threads, seen


def _sit(
    name: str, url: str, password: str, answers: int, think: tuple[float, float], seen: Browsed
) -> None:
    try:
        _rank(name, url, password, answers, think, seen)
    except Exception as error:  # whatever a browser can do wrong is a finding
        seen.errors.append(f"{name}: {error!r:.300}")


def _rank(
    name: str, url: str, password: str, answers: int, think: tuple[float, float], seen: Browsed
) -> None:
    from playwright.sync_api import sync_playwright

    mine: dict[str, dict[str, int]] = {}

    def answered(response) -> None:
        if response.request.method == "POST" and response.url.endswith("/api/rankings"):
            if response.status != 200:
                seen.errors.append(f"{name}: submit answered {response.status}")
                return
            body = json.loads(response.request.post_data or "{}")
            mine[body["token"]] = body["ranks"]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.on("response", answered)
        page.on("pageerror", lambda error: seen.errors.append(f"{name}: {error}"))
        rng, deadline = random.Random(name), time.monotonic() + DEADLINE_SECONDS
        _sign_in(page, name, url, password, deadline)
        idle = 0  # looks at a board that says there is nothing left
        while len(mine) < answers and time.monotonic() < deadline and idle < 10:
            state = page.evaluate("document.querySelector('.b')?.dataset.state ?? null")
            cards = page.locator(".b-card").count()
            idle = idle + 1 if state == "done" else 0
            if state != "work" or not cards:
                page.wait_for_timeout(200)
                continue
            page.wait_for_timeout(1000 * rng.uniform(*think))
            for place in range(1, cards + 1):
                page.keyboard.press(str(place))
            page.keyboard.press("Enter")
            page.wait_for_timeout(500)
        browser.close()
    seen.confirmed += [(name, token, ranks) for token, ranks in mine.items()]


def _sign_in(page, name: str, url: str, password: str, deadline: float) -> None:
    """Sign in; a server that is being started again is waited for."""
    from playwright.sync_api import Error

    while time.monotonic() < deadline:
        try:
            page.goto(f"{url}/sign-in")
            page.fill("#name", name)
            page.fill("#password", password)
            page.click("button")
            page.wait_for_selector(".b-card", timeout=60_000)
            return
        except Error:
            page.wait_for_timeout(500)
    raise TimeoutError("could not sign in")
