"""A served instance and a real Chromium."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import expect

from alignment.feedback import people
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt
from tests.e2e.workspace import make_workspace

START_SECONDS = 60
expect.set_options(timeout=15_000)  # a busy machine is no failure
TEXTS = ("You are welcome.", "No.", "Of course, with pleasure!", "Go away.")
_NUMBERS = itertools.count(1)
_SERVE = (
    "import sys; from pathlib import Path; from ui.app import serve; "
    "serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
)


@dataclass
class Server:
    """A running instance, and the store it writes to as seen by another process."""

    workspace: Path
    port: int
    process: subprocess.Popen = field(init=False)
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.start()
        self.store = Store(self.workspace / "feedback.db")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-c", _SERVE, str(self.workspace), str(self.port)]
        self.process = subprocess.Popen(command)
        wait_for(f"{self.url}/sign-in", self.process)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def account(self, name: str, role: str = "labeler", *, qualified: bool = True) -> str:
        """A new account; its password is returned. `qualified`: as if practice had been passed."""
        password = people.add_account(self.store, name, role)
        if qualified:
            with self.store.writing() as db:
                db.execute("UPDATE labelers SET qualified = 1 WHERE labeler_id = ?", [name])
        return password

    def task(
        self,
        prompt_id: str,
        texts: tuple[str, ...] = TEXTS,
        prompt: str | list = "Say something.",
        overlap: int = 9,
    ) -> None:
        """A new task. The newest one is the next to be served: none has fewer rankings.

        The overlap leaves room for the page of the test before, which may still be asking for its next task.
        """
        self.store.add_prompts([Prompt(prompt_id, prompt)])
        completions = [Completion(f"{prompt_id}-{i}", prompt_id, t) for i, t in enumerate(texts)]
        self.store.add_tasks(completions, overlap=overlap)

    def rankings(self, labeler: str) -> list:
        return [r for r in self.store.rankings("people") if r.labeler_id == labeler]

    def rows(self, labeler: str) -> list[dict]:
        """All that a labeler submitted, superseded or not, with flags, rationale and confidence."""
        return self.store.rows(
            "SELECT * FROM rankings WHERE labeler_id = ? ORDER BY ranking_id", [labeler]
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("e2e") / "workspace", [], {})
    # No gold or repeat task comes between what a test has set up.
    (workspace / "concord.yaml").write_text(
        "base_model: demo\nlabelling: {practice_tasks: 2, gold_rate: 0, repeat_rate: 0}\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Server(workspace, port)
    try:
        yield running
    finally:
        running.store.close()
        running.process.terminate()
        try:
            running.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            running.kill()


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Return when `url` answers; fail when the process ends or `START_SECONDS` are over."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the server did not answer within {START_SECONDS} s")


def chromium_path() -> str:
    path = os.environ.get("CONCORD_CHROMIUM") or shutil.which("chromium")
    if path is None or not Path(path).exists():
        pytest.fail(
            "The browser tests need Chromium: install it (`apt-get install chromium` on Debian), or name its "
            "program in the environment variable CONCORD_CHROMIUM."
        )
    return path


@pytest.fixture(scope="session")
def browser():
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def desktop(browser):
    """One context for all tests on a wide screen, so that Gradio's scripts are fetched once."""
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        yield context


@pytest.fixture
def open_page(server, browser, desktop):
    """`open_page(name, password, **options)`: a signed-in page, in a context of its own where options are given.

    At the end of the test: no request has gone elsewhere, and no script has failed.
    """
    opened, outside, broken = [], [], []

    def watch(request) -> None:
        if not request.url.startswith((server.url, "data:", "blob:")):
            outside.append(request.url)

    def open_(name: str, password: str, **options):
        context = browser.new_context(**options) if options else desktop
        context.clear_cookies()
        page = context.new_page()
        opened.append(context if options else page)
        page.set_default_timeout(15_000)
        page.on("request", watch)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(f"{server.url}/sign-in")
        page.evaluate("localStorage.clear()")
        page.fill("#name", name)
        page.fill("#password", password)
        page.click("button")
        return page

    yield open_
    for each in opened:
        each.close()
    assert not outside, "requests left the machine"
    assert not broken, "a script failed"


@pytest.fixture
def board(server, open_page):
    """`board(texts)`: a page with a fresh labeler in front of a fresh task; its `labeler` is the account's name."""

    def open_(texts=TEXTS, prompt="Thank you!", **options):
        name = f"labeler-{next(_NUMBERS)}"
        server.task(name, texts, prompt)
        password = server.account(name)
        page = open_page(name, password, **options)
        expect(page.locator(".b-card")).to_have_count(len(texts))
        assert {i.rsplit("-", 1)[0] for i in shown_ids(page)} == {name}, "another task is shown"
        page.labeler, page.password = name, password
        return page

    return open_


def shown_ids(page) -> list[str]:
    return page.locator(".b-card").evaluate_all("cards => cards.map(card => card.dataset.id)")


def state(page, completion: str):
    """Where a card says that it stands."""
    return page.locator(f'.b-card[data-id="{completion}"] .b-state')


def toast(page):
    return page.locator(".b-toast")


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def submitted(page) -> None:
    """Press Enter, and wait until the server has confirmed the answer."""
    page.keyboard.press("Enter")
    expect(toast(page)).to_have_text("Saved.")
