"""What the labelling routes share: the store, the project's rules, practice, guidelines and toxicity."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from alignment.config import LabellingConfig, load_config
from alignment.errors import ConcordError
from alignment.feedback.guidelines import Guidelines, guidelines_path, keep_version
from alignment.feedback.practice import PracticeItem, load_practice
from alignment.feedback.preferences import Preferences
from alignment.feedback.store import Store
from alignment.labelling import refresh_priorities
from alignment.workspace import CONFIG_FILE
from ui.toxicity import BoardToxicity

PRIORITY_SECONDS = 30


class Desk:
    """One workspace's labelling. The rules are read when the server starts; the guidelines whenever they change."""

    def __init__(self, store: Store, workspace: Path) -> None:
        self.store = store
        self.workspace = workspace
        self.rules: LabellingConfig = labelling_rules(workspace)
        self.practice: list[PracticeItem] = load_practice(store, workspace)
        self.toxicity = BoardToxicity(store)
        self.defaults = Preferences(break_minutes=self.rules.break_minutes)
        self.strategy_note: str | None = None
        self._guidelines: tuple[tuple[str, int, int], Guidelines] | None = None

    def start(self) -> None:
        """What a served instance does beside serving: score completions, and follow the strategy's latest run."""
        self.toxicity.start()
        threading.Thread(target=self._follow, name="priorities", daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                said = refresh_priorities(self.store, self.rules)
            except ConcordError as error:  # the store is busy, say: the next time will do
                said = str(error)
            if said is None:  # the strategy needs no run
                return
            self.strategy_note = said
            time.sleep(PRIORITY_SECONDS)

    def guidelines(self) -> Guidelines:
        """The guidelines in force, with their version."""
        path = guidelines_path(self.workspace)
        stat = path.stat()
        mark = str(path), stat.st_mtime_ns, stat.st_size
        if self._guidelines is None or self._guidelines[0] != mark:
            text = path.read_text(encoding="utf-8", errors="replace")
            self._guidelines = mark, keep_version(self.store, text)
        return self._guidelines[1]


def labelling_rules(workspace: Path) -> LabellingConfig:
    """The section `labelling` of the workspace's configuration. Raises `ConfigError` where it is wrong."""
    path = workspace / CONFIG_FILE
    return load_config([path] if path.exists() else []).labelling
