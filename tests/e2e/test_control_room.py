"""An engineer starts PPO from the form, watches it, stops it, resumes it; runs outlive the UI, the dead are noticed."""

import contextlib
import json
import socket
import time

import psutil
import pytest
import yaml
from playwright.sync_api import expect

from alignment.feedback import run_queue, runs
from alignment.models.shapes import model_config
from alignment.records import Prompt
from tests.conftest import tiny_causal_lm, tiny_tokenizer
from tests.e2e.conftest import Server
from tests.e2e.workspace import make_workspace, password

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SECONDS = 90_000  # for a run's processes to start and end on a busy machine, in milliseconds


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A served workspace whose base model is tiny, and whose reward is the length of the text."""
    folder = tmp_path_factory.mktemp("room")
    tiny_causal_lm("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    prompts = [Prompt(f"p{n}", f"You are kind {n}.") for n in range(12)]
    workspace = make_workspace(folder / "workspace", prompts, {})
    options = {
        "max_iterations": 400,
        "batch_size": 8,
        "num_mini_batches": 1,
        "per_device_train_batch_size": 8,
        "response_length": 6,
        "rewards": [{"kind": "callable", "name": "tests.ppo_rewards:length"}],
        "value_init": "zero",
        "save_every": 1,
        "judge": None,
    }
    tree = {"base_model": str(folder / "model"), "ppo": options}
    (workspace / "concord.yaml").write_text(yaml.safe_dump(tree))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Server(workspace, port)
    yield running
    for process in run_queue.processes(running.store).values():
        psutil.Process(process.pid).kill()
    running.store.close()
    running.kill()


@contextlib.contextmanager
def signed_in(room, browser, name, secret):
    """The control room in a browser of one's own."""
    with browser.new_context(viewport={"width": 1500, "height": 1100}) as context:
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        opened.on("dialog", lambda dialog: dialog.accept())
        opened.goto(f"{room.url}/sign-in")
        opened.fill("#name", name)
        opened.fill("#password", secret)
        opened.click("button")
        yield opened


@pytest.fixture
def page(room, browser):
    """The control room, signed in as engineer."""
    with signed_in(room, browser, "engineer", password("engineer")) as opened:
        yield opened


def open_form(page):
    """The form, opened once nothing above its button moves any more."""
    expect(page.locator(".r-round h2")).to_be_visible()
    expect(page.locator(".r-table tbody tr").first).to_be_visible()
    page.get_by_role("button", name="Start a run").click()
    expect(page.locator(".r-form")).to_be_visible()


def fill_in(page, **fields):
    """The form of PPO, filled in and looked at; its button to start."""
    open_form(page)
    page.locator("#r-stage").select_option("ppo")
    for name, value in fields.items():
        page.locator(f"#r-field-{name}").fill(str(value))
    button = page.locator(".r-form .r-primary")
    expect(button).to_be_enabled()
    expect(page.locator(".r-plan h3")).to_be_visible(timeout=SECONDS)
    return button


def start(page, **fields) -> str:
    """Start PPO from the form; the run's id."""
    fill_in(page, **fields).click()
    expect(page.locator(".r-form")).not_to_be_visible()
    page.wait_for_url("**/runs/?run=ppo-2*")
    return page.url.rpartition("=")[2]


def state(page, run_id):
    return page.locator(f'tr[data-run="{run_id}"] .tag').first


def ours(room) -> list[psutil.Process]:
    """Processes at work on runs of this workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(room.workspace) in process.cmdline() and "execute" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(room) -> None:
    until = time.monotonic() + 20
    while ours(room):
        assert time.monotonic() < until, "a process was left behind"
        time.sleep(0.2)


def test_nothing_starts_from_a_form_with_a_mistake(page, room):
    open_form(page)
    page.locator("#r-stage").select_option("ppo")
    page.locator("#r-field-kl_coef").fill("-1")
    expect(page.locator('[data-wrong="kl_coef"]')).to_contain_text("greater than or equal to 0")
    expect(page.locator(".r-form .r-primary")).to_be_disabled()
    page.locator("#r-field-kl_coef").fill("0.1")
    expect(page.locator(".r-yaml")).to_contain_text("kl_coef: 0.1")
    expect(page.locator(".r-form .r-primary")).to_be_enabled()


def test_start_waits_where_the_rankings_cannot_be_combined(page, room):
    def reads(route) -> None:
        mixed = "labelers=auto" in route.request.url
        found = dict.fromkeys(("consensus", "usable_pairs", "people", "simulated", "together"))
        route.fulfill(json={**found, "problem": "They are mixed." if mixed else None})

    page.route("**/api/runs/reads*", reads)
    open_form(page)
    start = page.locator(".r-form .r-primary")
    for stage in ("consensus", "round"):
        page.locator("#r-stage").select_option(stage)
        expect(page.locator(".r-reads")).to_contain_text("They are mixed.")
        expect(start).to_be_disabled()
        page.locator("#r-field-labelers").select_option("people")
        expect(start).to_be_enabled()
        expect(page.locator(".r-yaml")).to_contain_text("labelers: people")


def test_the_form_shows_the_plan_of_what_it_says_and_asks_twice_where_that_does_not_fit(page, room):
    button = fill_in(page)
    plan = page.locator(".r-plan")
    expect(plan).to_contain_text("Needs")
    expect(plan.locator(".tag")).to_have_text("fits")
    expect(plan).to_contain_text("completions of up to 6")
    page.locator("#r-field-response_length").fill("9")
    expect(plan).to_contain_text("completions of up to 9")
    page.locator("#r-field-base_model").fill("./nowhere")
    expect(page.locator('[data-wrong="base_model"]')).to_contain_text("There is no folder")
    expect(button).to_be_disabled()
    expect(plan).not_to_be_visible()
    page.locator("#r-field-base_model").fill("nobody/nothing")
    expect(plan).to_contain_text("nor can it be had from the hub now", timeout=SECONDS)
    before = len(runs.runs(room.store))
    button.click()
    expect(button).to_have_text("Start all the same")
    expect(page.locator(".r-form .message")).to_contain_text("Click once more")
    huge = room.workspace / "huge"
    huge.mkdir()
    (huge / "config.json").write_text(json.dumps(model_config("70B").to_dict()))
    page.locator("#r-field-base_model").fill("huge")
    expect(plan.locator(".tag")).to_have_text("does not fit", timeout=SECONDS)
    expect(button).to_be_enabled()
    expect(button).to_have_text("Start")
    button.click()
    expect(button).to_have_text("Start all the same")
    assert len(runs.runs(room.store)) == before
    button.click()
    expect(page.locator(".r-form")).not_to_be_visible()
    asked, *_ = runs.runs(room.store)
    assert run_queue.request_of(room.store, asked.run_id).config["base_model"] == "huge"
    expect(state(page, asked.run_id)).to_have_text("failed", timeout=SECONDS)
    gone(room)


def test_the_form_and_the_list_fit_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    expect(state(page, "consensus-1")).to_have_text("finished")
    whole = "element => element.scrollWidth <= element.clientWidth"
    assert page.locator(".r-list").evaluate(whole)
    button = fill_in(page)
    assert page.locator(".r-form").evaluate(whole)
    expect(button).to_be_in_viewport(ratio=1)


def test_two_engineers_who_click_at_once_get_one_run_each_in_order(page, room, browser):
    secret = room.account("engineer-2", "engineer")
    known = {run.run_id for run in runs.runs(room.store)}
    with signed_in(room, browser, "engineer-2", secret) as other:
        for each, iterations in ((page, 3), (other, 4)):
            fill_in(each, max_iterations=iterations)
        click = "at => setTimeout(() => document.querySelector('.r-form .r-primary').click(), at - Date.now())"
        at = page.evaluate("Date.now() + 1000")
        for each in (page, other):
            each.evaluate(click, at)
        for each in (page, other):
            expect(each.locator(".r-form")).not_to_be_visible()
        asked = [run for run in runs.runs(room.store) if run.run_id not in known]
        asked.sort(key=lambda run: run_queue.request_of(room.store, run.run_id).created)
        makers = [run_queue.request_of(room.store, run.run_id).created_by for run in asked]
        assert sorted(makers) == ["engineer", "engineer-2"]
        for run in asked:
            for each in (page, other):
                expect(state(each, run.run_id)).to_have_text("finished", timeout=SECONDS)
    first, second = (runs.run(room.store, run.run_id) for run in asked)
    assert first.ended <= second.started
    by = dict(zip(makers, (first, second), strict=True))
    assert by["engineer"].config["max_iterations"] == 3
    assert by["engineer-2"].config["max_iterations"] == 4
    gone(room)


def test_a_run_is_started_watched_stopped_and_resumed_to_its_end(page, room):
    run_id = start(page, max_iterations=400)
    expect(page.locator(".r-curve canvas").first).to_be_visible(timeout=SECONDS)
    told = page.locator(".r-progress p")
    expect(told).to_contain_text("of 400", timeout=SECONDS)
    first = told.text_content()
    expect(told).not_to_have_text(first, timeout=SECONDS)
    page.get_by_role("button", name="Stop after a checkpoint").click()
    expect(state(page, run_id)).to_have_text("stopped", timeout=SECONDS)
    gone(room)
    done = runs.run(room.store, run_id).metrics["iterations"]
    assert 0 < done < 400
    # What is left would take too long here: the end is moved nearer, as a clone would.
    request = run_queue.request_of(room.store, run_id)
    near = {**request.config, "ppo": {**request.config["ppo"], "max_iterations": done + 3}}
    with room.store.writing() as db:
        db.execute(
            "UPDATE run_requests SET config = json(?) WHERE run_id = ?",
            [json.dumps(near), run_id],
        )
    page.get_by_role("button", name="Resume").click()
    expect(state(page, run_id)).to_have_text("running", timeout=SECONDS)
    expect(page.locator(".r-message")).to_be_hidden()
    expect(state(page, run_id)).to_have_text("finished", timeout=SECONDS)
    expect(page.locator(".r-message")).to_contain_text("maximum iterations")
    assert runs.run(room.store, run_id).metrics["iterations"] == done + 3
    gone(room)


def test_runs_outlive_the_ui_and_a_killed_one_says_why(page, room):
    run_id = start(page, max_iterations=400)
    waiting = start(page, max_iterations=2)
    assert waiting != run_id
    expect(state(page, run_id)).to_have_text("running", timeout=SECONDS)
    expect(state(page, waiting)).to_have_text("queued")
    room.kill()
    expect(page.locator(".r-notice")).to_contain_text("Runs go on", timeout=SECONDS)
    [worker] = ours(room)
    room.start()
    expect(page.locator(".r-notice")).not_to_be_visible(timeout=SECONDS)
    expect(state(page, run_id)).to_have_text("running")
    assert worker.is_running()
    page.locator(f'tr[data-run="{run_id}"] a').click()
    expect(page.locator(".r-progress p")).to_contain_text("of 400", timeout=SECONDS)
    killed = time.monotonic()
    worker.kill()
    expect(state(page, run_id)).to_have_text("failed", timeout=15_000)
    assert time.monotonic() - killed < 15
    expect(page.locator(".r-message")).to_contain_text("The last lines of its log")
    expect(state(page, waiting)).to_have_text("finished", timeout=SECONDS)  # its turn came
    gone(room)


def test_a_run_stopped_at_once_leaves_nothing_behind(page, room):
    run_id = start(page, max_iterations=400)
    expect(state(page, run_id)).to_have_text("running", timeout=SECONDS)
    expect(page.locator(".r-progress p")).to_contain_text("of 400", timeout=SECONDS)
    page.get_by_role("button", name="Stop at once").click()
    expect(state(page, run_id)).to_have_text("stopped", timeout=SECONDS)
    gone(room)
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(f'tr[data-run="{run_id}"]')).to_have_count(0)
    assert (room.workspace / "bin" / run_id).is_dir()
