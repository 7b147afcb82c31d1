"""Many labelers at once against a served instance that is killed again and again: `make bench-load`.

Most go through the API; a few (`--browsers`) sit at real browsers. Times are those of the API's submits that got an
answer: what a kill broke off is counted under retries.

Each labeler has a session of its own: sign in, take a task, think for a random time (saving a draft half-way), submit.
Meanwhile the server process is killed with SIGKILL and started again. A refused or broken connection is tried again,
as the board does; anything else that is not a success is an error. Afterwards the store is read: every confirmed
ranking must be there exactly once, no labeler may have ranked a task twice, and no task has more rankings than its
overlap.

`python -m benchmarks.load [--quick] [--seed N] [--labelers 200] [--json FILE]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from alignment.feedback import people
from alignment.feedback.known_orders import KnownOrder, set_known_order
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt
from benchmarks.load_browsers import chromium, start_browsers

OVERLAP, COMPLETIONS, GOLD_TASKS = 3, 4, 20
PASSWORD = "the same for all of them"
RETRY_SECONDS = (
    1,
    2,
    4,
    8,
    15,
)  # as the board waits between attempts, each by chance a half shorter or longer
ATTEMPTS, START_SECONDS = 40, 90
CONFIG = (
    f"labelling: {{practice_tasks: 0, gold_rate: 0.05, repeat_rate: 0.05, overlap: {OVERLAP}}}\n"
)


@dataclass
class Load:
    """What is asked of the run. `think`: the shortest and longest time between getting and submitting, in seconds."""

    labelers: int = 200
    answers: int = 16
    kills: int = 10
    think: tuple[float, float] = (2.0, 10.0)
    seed: int = 0
    browsers: int = 0


@dataclass
class Tally:
    """What the labelers saw."""

    confirmed: list[tuple[str, str, dict[str, int]]] = field(default_factory=list)
    submit_seconds: list[float] = field(default_factory=list)
    next_seconds: list[float] = field(default_factory=list)
    retries: int = 0
    errors: list[str] = field(default_factory=list)
    at_work: int = 0
    finished: int = 0


class Session:
    """One labeler's connection: HTTP/1.1 with keep-alive and cookies, and no more, so that little is measured but the
    server."""

    def __init__(self, port: int, tally: Tally) -> None:
        self.port = port
        self.tally = tally
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes, float]:
        """Status, body and seconds of the attempt that got an answer; broken connections are tried again."""
        for attempt in range(ATTEMPTS):
            started = time.perf_counter()
            try:
                status, content = await asyncio.wait_for(
                    self._once(method, path, body, kind), timeout=60
                )
                return status, content, time.perf_counter() - started
            except (OSError, EOFError, TimeoutError):
                self.close()
                self.tally.retries += 1
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        raise RuntimeError(f"{method} {path}: no answer after {ATTEMPTS} attempts")

    async def _once(self, method: str, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        headers = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        if method != "GET":
            headers |= {"Content-Length": str(len(body)), "Content-Type": kind}
        head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        await writer.drain()
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        length = 0
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode().strip().partition(": ")
            if name.lower() == "content-length":
                length = int(value)
            elif name.lower() == "set-cookie":
                cookie, _, content = value.split(";", 1)[0].partition("=")
                self.cookies[cookie] = content
        return status, await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def sign_in(self, name: str) -> None:
        """Through the form, as a person does."""
        _, page, _ = await self.request("GET", "/sign-in")
        found = re.search(rb'name="token" value="([^"]+)"', page)
        form = {
            "name": name,
            "password": PASSWORD,
            "token": found.group(1).decode() if found else "",
        }
        status, _, _ = await self.request(
            "POST", "/sign-in", urlencode(form).encode(), "application/x-www-form-urlencoded"
        )
        if status != 303:
            raise RuntimeError(f"{name} could not sign in: {status}")
        self.headers["X-CSRF-Token"] = (await self.call("GET", "/api/me"))["csrf"]

    async def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """A call of the API; what is no success is an error."""
        return (await self.timed(method, path, body))[0]

    async def timed(self, method: str, path: str, body: dict | None = None) -> tuple[dict, float]:
        content = b"" if body is None else json.dumps(body).encode()
        status, answer, seconds = await self.request(method, path, content)
        if status != 200:
            self.tally.errors.append(f"{method} {path}: {status} {answer[:200].decode()}")
            raise RuntimeError(self.tally.errors[-1])
        return json.loads(answer), seconds


async def label(number: int, port: int, load: Load, tally: Tally, rng: random.Random) -> None:
    """One labeler's day."""
    name = labeler_name(number)
    session = Session(port, tally)
    try:
        await asyncio.sleep(
            rng.uniform(0, load.labelers / 20)
        )  # they do not arrive all in one second
        await session.sign_in(name)
        tally.at_work += 1
        for _ in range(load.answers):
            shown, seconds = await session.timed("POST", "/api/tasks/next")
            tally.next_seconds.append(seconds)
            task = shown["task"]
            if task is None:
                break
            ids = [completion["id"] for completion in task["completions"]]
            think = rng.uniform(*load.think)
            await asyncio.sleep(think / 2)
            draft = {"ranks": {ids[0]: 1}}
            body = {"token": task["token"], "version": task["draft_version"], "draft": draft}
            await session.call("PUT", "/api/drafts", body)
            await asyncio.sleep(think / 2)
            ranks = dict(zip(ids, rng.sample(range(1, len(ids) + 1), len(ids)), strict=True))
            answer = {"token": task["token"], "ranks": ranks}
            _, seconds = await session.timed("POST", "/api/rankings", answer)
            tally.submit_seconds.append(seconds)
            tally.confirmed.append((name, task["token"], ranks))
    except RuntimeError as error:
        if str(error) not in tally.errors:
            tally.errors.append(str(error))
    finally:
        tally.finished += 1
        session.close()


class Server:
    """`concord ui` as a process of its own."""

    def __init__(self, workspace: Path, port: int) -> None:
        self.command = [sys.executable, "-m", "alignment.cli", "ui", "--workspace", str(workspace)]
        self.command += ["--port", str(port)]
        self.port = port
        self.process: subprocess.Popen | None = None

    async def start(self) -> float:
        """Seconds until it answers."""
        started = time.perf_counter()
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        while time.perf_counter() - started < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with code {self.process.returncode}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return time.perf_counter() - started
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the server did not answer within {START_SECONDS} s")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing said goodbye to."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


async def kill_again_and_again(server: Server, load: Load, tally: Tally, rng: random.Random) -> int:
    """Kill and restart the server `load.kills` times, spread over the run; how often it was done."""
    total, done = load.labelers * load.answers, 0
    for number in range(1, load.kills + 1):
        due = number * total / (load.kills + 1)
        while len(tally.confirmed) < due:
            if tally.finished >= load.labelers:
                return done
            await asyncio.sleep(0.05)
        await asyncio.sleep(rng.uniform(0, 0.2))
        server.kill()
        done += 1
        await server.start()
    return done


async def run_load(server: Server, load: Load) -> tuple[Tally, int, float]:
    """Let everybody work; what they saw, the kills, and the seconds it took."""
    tally, rng = Tally(), random.Random(load.seed)
    await server.start()
    started = time.perf_counter()
    work = [
        label(number, server.port, load, tally, random.Random(f"{load.seed}/{number}"))
        for number in range(load.labelers)
    ]
    names = [browser_name(number) for number in range(load.browsers)]
    url = f"http://127.0.0.1:{server.port}"
    threads, browsed = start_browsers(names, url, PASSWORD, load.answers, load.think)
    killing = asyncio.create_task(kill_again_and_again(server, load, tally, rng))
    await asyncio.gather(*work)
    kills, seconds = await killing, time.perf_counter() - started
    for thread in threads:
        await asyncio.to_thread(thread.join)
    tally.confirmed += browsed.confirmed
    tally.errors += browsed.errors
    return tally, kills, seconds


def labeler_name(number: int) -> str:
    return f"labeler-{number:03}"


def browser_name(number: int) -> str:
    return f"browser-{number:02}"


def make_workspace(folder: Path, load: Load) -> Path:
    """A workspace with as many places as answers are wanted, and a few gold tasks."""
    folder.mkdir(parents=True)
    (folder / "concord.yaml").write_text(CONFIG, encoding="utf-8")
    store = Store(folder / "feedback.db", create=True)
    places = (load.labelers + load.browsers) * load.answers
    names = [f"prompt-{i:05}" for i in range(-(-places // OVERLAP))]
    gold = [f"gold-{i:02}" for i in range(GOLD_TASKS)]
    store.add_prompts([Prompt(name, f"Say something about {name}.") for name in [*names, *gold]])
    store.add_tasks(
        [
            Completion(f"{name}-{i}", name, f"Number {i} of what can be said about {name}.")
            for name in [*names, *gold]
            for i in range(COMPLETIONS)
        ],
        OVERLAP,
    )
    for name in gold:
        ranks = {f"{name}-{i}": i + 1 for i in range(COMPLETIONS)}
        set_known_order(store, KnownOrder(name, ranks, "gold", "bench"))
    # One hash for all saves minutes of preparation; signing in costs each of them what it costs.
    password_hash = people.hashed("labeler", PASSWORD)
    with store.writing():
        everybody = [labeler_name(number) for number in range(load.labelers)]
        for name in [*everybody, *(browser_name(number) for number in range(load.browsers))]:
            people.insert_account(store, name, "labeler", password_hash)
    store.close()
    return folder


def check_store(workspace: Path, tally: Tally) -> dict[str, int]:
    """What the store holds, against what was confirmed."""
    store = Store(workspace / "feedback.db")
    rows = store.rows("SELECT token, labeler_id, task_id, kind, ranks FROM rankings")
    by_token: dict[str, list[dict]] = {}
    for row in rows:
        by_token.setdefault(row["token"], []).append(row)
    lost = sum(
        not any(
            row["labeler_id"] == name and json.loads(row["ranks"]) == ranks
            for row in by_token.get(token, [])
        )
        for name, token, ranks in tally.confirmed
    )
    places = [(row["task_id"], row["labeler_id"], row["kind"]) for row in rows]
    duplicated = len(places) - len(set(places)) + sum(len(each) - 1 for each in by_token.values())
    exceeded = store.rows(
        "SELECT count(*) AS n FROM tasks t WHERE (SELECT count(*) FROM rankings r "
        "WHERE r.task_id = t.task_id AND r.kind = 'ranking') > t.overlap"
    )[0]["n"]
    store.close()
    return {
        "stored": len(rows),
        "lost": lost,
        "duplicated": duplicated,
        "overlap_exceeded": exceeded,
    }


def measure(load: Load, folder: Path) -> dict[str, object]:
    """Run the load in a fresh workspace below `folder`; the figures."""
    workspace = make_workspace(folder / "workspace", load)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(workspace, port)
    try:
        tally, kills, seconds = asyncio.run(run_load(server, load))
    finally:
        server.kill()
    submit = 1000 * np.array(tally.submit_seconds or [np.nan])
    following = 1000 * np.array(tally.next_seconds or [np.nan])
    return {
        "labelers": load.labelers,
        "browsers": load.browsers,
        "submitted": len(tally.confirmed),
        **check_store(workspace, tally),
        "errors": len(tally.errors),
        **{f"p{q}_ms": round(float(np.percentile(submit, q)), 1) for q in (50, 95, 99)},
        "next_p95_ms": round(float(np.percentile(following, 95)), 1),
        "submits_per_second": round(len(tally.submit_seconds) / seconds, 1),
        "kills": kills,
        "retries": tally.retries,
        "seconds": round(seconds, 1),
        "error_examples": tally.errors[:3],
        "asked": asdict(load),
    }


def main() -> None:
    """Parse, measure, print, and fail where the bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20 labelers, 2 kills, short thinking")
    parser.add_argument("--labelers", type=int, help="labelers at once (200)")
    parser.add_argument("--answers", type=int, help="answers of each labeler (16)")
    parser.add_argument("--kills", type=int, help="times the server is killed (10)")
    parser.add_argument("--browsers", type=int, help="labelers at real browsers besides (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    load = Load(20, 4, 2, (0.2, 1.0)) if options.quick else Load(browsers=2)
    load.seed = options.seed
    for name in ("labelers", "answers", "kills", "browsers"):
        if getattr(options, name) is not None:
            setattr(load, name, getattr(options, name))
    if load.browsers and chromium() is None:
        print("No Chromium here (see CONCORD_CHROMIUM): nobody sits at a browser.")
        load.browsers = 0
    with tempfile.TemporaryDirectory(prefix="concord-load-") as folder:
        figures = measure(load, Path(folder))
    for key, value in figures.items():
        print(f"{key:20} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    wrong = [key for key in ("lost", "duplicated", "overlap_exceeded", "errors") if figures[key]]
    if wrong:
        sys.exit(f"Not as it must be: {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
