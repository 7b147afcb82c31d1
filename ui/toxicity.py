"""How toxic the texts on the board are, so that they can be blurred: scored once, offline, and kept in the store."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from alignment.evaluation.toxicity import OFFLINE_SCORER, load_scorer
from alignment.feedback.store import Store
from alignment.feedback.toxicity_scores import keep_toxicity_scores, toxicity_scores, unscored

_BATCH = 256


class BoardToxicity:
    """Scores of completions, from the store where it has them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scorer = load_scorer(OFFLINE_SCORER)
        self._practice: dict[str, float] = {}

    def start(self) -> None:
        """Score, in the background, what has no score yet, so that no labeler waits for it."""
        threading.Thread(target=self._score_all, name="toxicity", daemon=True).start()

    def _score_all(self) -> None:
        while texts := unscored(self._store, _BATCH):
            self._keep(texts)

    def of(self, texts: Mapping[str, str]) -> dict[str, float]:
        """Probabilities in [0, 1] of completions, id -> text; those without one are scored now."""
        known = toxicity_scores(self._store, texts)
        missing = {i: text for i, text in texts.items() if i not in known}
        return known | self._keep(missing) if missing else known

    def of_practice(self, texts: Mapping[str, str]) -> dict[str, float]:
        """The same for practice items, which are no completions: kept in memory."""
        missing = {i: text for i, text in texts.items() if i not in self._practice}
        if missing:
            self._practice |= self._score(missing)
        return {i: self._practice[i] for i in texts}

    def _score(self, texts: Mapping[str, str]) -> dict[str, float]:
        return {i: float(p) for i, p in zip(texts, self._scorer(list(texts.values())), strict=True)}

    def _keep(self, texts: Mapping[str, str]) -> dict[str, float]:
        scores = self._score(texts)
        keep_toxicity_scores(self._store, scores, OFFLINE_SCORER)
        return scores
