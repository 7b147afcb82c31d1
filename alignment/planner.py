"""Plans made in a process of its own: who asks needs no torch, and serves others meanwhile.

The process reads a question a line, answers with a line, and ends with its asker or when nobody asks for a while.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from alignment.config import Config
from alignment.errors import ConcordError, ModelError

WAIT_SECONDS, PATIENCE_SECONDS, IDLE_SECONDS = 2.0, 180.0, 600.0
MOST_WAITING = 16
GIVEN_UP = "The plan was not made in time, or its process ended. Change something to try again, or ask `concord plan`."


class NotYet(Exception):
    """The plan is still being made: ask the same again."""


class Planner:
    """Answers one question at a time. Relative folders are those of the workspace.

    Who asks waits for `wait` seconds, and may ask again; after `patience` the other process is given up.
    """

    def __init__(
        self, folder: Path, wait: float = WAIT_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._folder, self._wait, self._patience = folder, wait, patience
        self._process: subprocess.Popen[str] | None = None
        self._idle: threading.Timer | None = None
        self._work = threading.Lock()  # one question at a time
        self._lock, self._waiting = threading.Lock(), dict[str, Future[dict[str, Any]]]()

    def plan_run(
        self, config: Config, stage: str, devices: int, fsdp: bool, texts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`run_plan.plan_run`, by the other process. Raises `NotYet`, or `ModelError` where there is no plan."""
        question = {
            "config": config.model_dump(mode="json"),
            "stage": stage,
            "devices": devices,
            "fsdp": fsdp,
            "texts": dict(texts),
        }
        line = json.dumps(question)
        with self._lock:
            if line not in self._waiting:
                while len(self._waiting) >= MOST_WAITING:  # nobody came back for the oldest
                    self._waiting.pop(next(iter(self._waiting))).cancel()
                self._waiting[line] = self._begun(lambda: self._ask(line))
            asked = self._waiting[line]
        if not wait([asked], self._wait).done:
            raise NotYet
        with self._lock:
            self._waiting.pop(line, None)
        answer = asked.result()
        if "error" in answer:
            raise ModelError(answer["error"])
        return answer["plan"]

    def warm(self) -> None:
        """Start the other process early: its imports take seconds."""
        self._begun(self._running)

    def _begun(self, work: Callable[[], Any]) -> Future[Any]:
        """`work` in a thread that keeps nobody from ending, when its turn comes."""
        future: Future[Any] = Future()

        def do() -> None:
            with self._work:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work())
                    except Exception as error:
                        future.set_exception(error)

        threading.Thread(target=do, name="planner", daemon=True).start()
        return future

    def _running(self) -> subprocess.Popen[str]:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = threading.Timer(IDLE_SECONDS, self.close)  # longer than any answer takes
        self._idle.daemon = True
        self._idle.start()
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        return self._process

    def _ask(self, line: str) -> dict[str, Any]:
        process = self._running()
        late = threading.Timer(self._patience, process.kill)
        late.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (OSError, ValueError):
            self.close()
            return {"error": GIVEN_UP}
        finally:
            late.cancel()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "alignment.planner"],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def close(self) -> None:
        """End the other process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`plan` or `error` of a question."""
    from alignment.run_plan import plan_run

    config = Config.model_validate(question.pop("config"))
    try:
        return {"plan": plan_run(config, **question)}
    except ConcordError as error:
        return {"error": str(error)}
    except Exception as error:  # an unusual architecture, say: the form must go on
        return {"error": f"No plan can be made for this base ({type(error).__name__}: {error})."}


def main() -> None:
    """Answer the questions on the standard input until it ends; nothing else may write to the output."""
    os.nice(5)  # labelers come first
    import alignment.run_plan  # noqa: F401  # before the first question, not with it

    output, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=output, flush=True)


if __name__ == "__main__":
    main()
