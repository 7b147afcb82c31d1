"""The consensus of a workspace while people rank: held in memory, caught up with new rankings, fitted anew when due."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.feedback.agreement import disagreement_shares
from alignment.feedback.agreement_history import Batch, agreement_over_time
from alignment.feedback.consensus import Consensus, fit_consensus, update_consensus
from alignment.feedback.consensus_records import PromptConsensus
from alignment.feedback.known_orders import KnownOrder, by_prompt, in_force, known_orders
from alignment.feedback.settlement import settled_prompts
from alignment.feedback.store import Store

MOST_AT_ONCE = (
    20  # more new rankings than this are fitted anew: it is as quick as one after the other
)
FIT_SHARE = 0.05  # a full fit is due when so much of the data has come by updates
FEWEST_UPDATES = 100  # but not before so many
# Agreement over time is computed anew when so large a share of the rankings is new; its dozen points move by less.
HISTORY_SHARE = 0.002
KINDS = ("people", "simulated")


@dataclass(frozen=True)
class Live:
    """The consensus of one kind of labelers at one moment, and the known orders in force."""

    kind: str
    consensus: Consensus
    known: list[KnownOrder]
    last_ranking: int  # id of the newest ranking in it

    ground: tuple[int, str] = (0, "")  # what else it stands on, see `LiveConsensus._ground`

    @property
    def version(self) -> tuple[int, int, str]:
        """Changes whenever the consensus does."""
        return self.last_ranking, *self.ground


@dataclass
class _Kept:
    """What is kept of one kind between two looks. `ground`: what else a fit stands on, see `_ground`. `newest`: id of
    the newest ranking looked at, of whatever kind. `updates`: rankings since the last full fit."""

    live: Live
    ground: tuple[int, str]
    newest: int
    updates: int


class LiveConsensus:
    """The consensus of people and of simulated labelers, never mixed. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[str, _Kept] = {}
        self._history: dict[str, tuple[Live, list[Batch]]] = {}
        self._kinds: tuple[int, tuple[int, str], list[str]] | None = None
        self._lock = threading.Lock()

    def kinds(self) -> list[str]:
        """The kinds of labelers of whom there are rankings, people first."""
        with self._lock:
            ground = self._ground()
            after, known = 0, []
            if self._kinds is not None and self._kinds[1] == ground:
                after, _, known = self._kinds
            newest, edited = self._since(after)
            if edited:
                after, known = 0, []
            if newest > after:
                rows = self.store.rows(
                    "SELECT DISTINCT simulated FROM counted_rankings WHERE ranking_id > ?",
                    [after],
                )
                found = {KINDS[bool(row["simulated"])] for row in rows}.union(known)
                known = [kind for kind in KINDS if kind in found]
            self._kinds = newest, ground, known
            return known

    def current(self, kind: str) -> Live | None:
        """The consensus with every ranking and known order in the store; None where that kind has no ranking."""
        with self._lock:
            ground = self._ground()
            kept = self._kept.get(kind)
            if kept is None or kept.ground != ground:
                return self._fit(kind, ground)
            newest, edited = self._since(kept.newest)
            fresh = self._fresh(kept.newest, newest, kind)
            if edited or self._fit_is_due(kept, len(fresh)):
                return self._fit(kind, ground)
            consensus = kept.live.consensus
            for ranking_id in fresh:
                [(_, ranking)] = self.store.rankings_by_id([ranking_id])
                consensus = update_consensus(consensus, ranking, repeat=True)
            kept.newest = newest
            if fresh:
                kept.live = Live(kind, consensus, kept.live.known, newest, ground)
                kept.updates += len(fresh)
            return kept.live

    def history(self, live: Live) -> list[Batch]:
        """Agreement over time; see `agreement_over_time`. May leave out the newest HISTORY_SHARE of the rankings."""
        with self._lock:
            known = self._history.get(live.kind)
            if known is None or self._is_stale(known[0], live):
                rows = self.store.rows(
                    "SELECT prompt_id, max(created) AS moment FROM counted_rankings "
                    "WHERE simulated = ? GROUP BY prompt_id",
                    [int(live.kind == "simulated")],
                )
                moments = {row["prompt_id"]: row["moment"] for row in rows}
                known = live, agreement_over_time(live.consensus, moments)
                self._history[live.kind] = known
            return known[1]

    @staticmethod
    def _is_stale(earlier: Live, now: Live) -> bool:
        held = now.consensus.summary.rankings
        new = now.last_ranking - earlier.last_ranking
        return (
            earlier.known != now.known
            or held < earlier.consensus.summary.rankings
            or new > HISTORY_SHARE * held
        )

    def _fit(self, kind: str, ground: tuple[int, str]) -> Live | None:
        """A full fit. One transaction reads the rankings and the newest id, so that none is lost or taken twice."""
        with self.store.reading() as db:
            db.execute("BEGIN")
            try:
                newest, _ = self._since(0)
                rankings = self.store.rankings(kind)
                known = in_force(known_orders(self.store))
            finally:
                db.execute("COMMIT")
        if not rankings:
            self._kept.pop(kind, None)
            return None
        consensus = fit_consensus(
            rankings,
            gold=by_prompt(known, "gold"),
            adjudicated=by_prompt(known, "adjudication"),
        )
        live = Live(kind, consensus, known, newest, ground)
        self._kept[kind] = _Kept(live, ground, newest, 0)
        return live

    @staticmethod
    def _fit_is_due(kept: _Kept, fresh: int) -> bool:
        held = kept.live.consensus.summary.rankings
        most = max(FEWEST_UPDATES, FIT_SHARE * held)
        return fresh > MOST_AT_ONCE or kept.updates + fresh > most

    def _since(self, ranking_id: int) -> tuple[int, bool]:
        """The newest ranking's id, and whether a later one than `ranking_id` edits or takes back another."""
        row = self.store.rows(
            "SELECT max(ranking_id) AS newest, count(supersedes) AS edits FROM rankings WHERE ranking_id > ?",
            [ranking_id],
        )[0]
        return row["newest"] or ranking_id, row["edits"] > 0

    def _fresh(self, after: int, newest: int, kind: str) -> list[int]:
        """Ids of the counting rankings after one id and up to another, oldest first."""
        rows = self.store.rows(
            "SELECT ranking_id FROM counted_rankings WHERE ranking_id > ? AND ranking_id <= ? AND simulated = ? "
            "ORDER BY ranking_id",
            [after, newest, int(kind == "simulated")],
        )
        return [row["ranking_id"] for row in rows]

    def _ground(self) -> tuple[int, str]:
        """The newest row of known orders, withdrawals included, and who is excluded."""
        orders = self.store.rows("SELECT max(order_id) AS newest FROM known_orders")[0]["newest"]
        rows = self.store.rows("SELECT labeler_id FROM labelers WHERE excluded = 1 ORDER BY 1")
        return orders or 0, "\n".join(row["labeler_id"] for row in rows)


def who_said_what(store: Store, prompt_id: str, kind: str) -> list[dict[str, Any]]:
    """The standing rankings of a prompt with name and moment, for engineers: `labeler_id`, `ranks`, `none_acceptable`,
    `seconds`, `created`."""
    rows = store.rows(
        "SELECT ranking_id, labeler_id, seconds, created FROM counted_rankings "
        "WHERE prompt_id = ? AND simulated = ? ORDER BY labeler_id, ranking_id",
        [prompt_id, int(kind == "simulated")],
    )
    rankings = dict(store.rankings_by_id([row["ranking_id"] for row in rows]))
    return [
        {
            **row,
            "ranks": rankings[row["ranking_id"]].ranks,
            "none_acceptable": rankings[row["ranking_id"]].none_acceptable,
        }
        for row in rows
    ]


def disputed(consensus: Consensus, most: int) -> list[PromptConsensus]:
    """The prompts whose votes contradict each other most and that no known order settles, the most disputed first."""
    if consensus.workings is None or consensus.votes is None:
        return []
    share = disagreement_shares(consensus.votes)
    share[settled_prompts(consensus.workings.table)] = 0
    top = np.argsort(-share, kind="stable")[: 4 * most]
    found = [consensus.prompts[int(p)] for p in top if share[p] > 0]
    found.sort(key=lambda p: (-p.disagreement_share, p.min_confidence or 0.0, p.prompt_id))
    return found[:most]
