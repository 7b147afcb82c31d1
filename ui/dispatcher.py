"""A thread of the served UI that starts waiting runs and notices dead ones, also when nobody has a page open."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from alignment import control
from alignment.feedback.store import Store
from alignment.workspace import Workspace

TICK_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Dispatcher:
    """Runs `control.dispatch` every two seconds until it is stopped. Runs go on when it ends."""

    def __init__(self, folder: Path, store: Store, most: int = 1) -> None:
        self._workspace, self._most = Workspace(folder, store), most
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)

    def __enter__(self) -> Dispatcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                control.dispatch(self._workspace, self._most)
            except Exception:  # a full disk, say: it may be better at the next tick
                _log.exception("The queue of runs could not be looked after.")
