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
KINDS = ("people", "simulated")


@dataclass(frozen=True)
class Live:
    """The consensus of one kind of labelers at one moment, and the known orders in force."""

    kind: str
    consensus: Consensus
    known: list[KnownOrder]
    last_ranking: int  # id of the newest ranking in it

    @property
    def version(self) -> tuple[int, int, int]:
        """Changes whenever the consensus does."""
        newest = max((order.order_id or 0 for order in self.known), default=0)
        return self.last_ranking, newest, self.consensus.summary.rankings


@dataclass
class _Kept:
    """What is kept of one kind between two looks. `orders`: grows with known orders, withdrawals included, and with
    decisions about labelers. `updates`: rankings since the last full fit."""

    live: Live
    orders: int
    updates: int


class LiveConsensus:
    """The consensus of people and of simulated labelers, never mixed. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[str, _Kept] = {}
        self._history: dict[str, tuple[tuple[int, int, int], list[Batch]]] = {}
        self._lock = threading.Lock()

    def kinds(self) -> list[str]:
        """The kinds of labelers of whom there are rankings, people first."""
        rows = self.store.rows("SELECT DISTINCT simulated FROM counted_rankings")
        found = {bool(row["simulated"]) for row in rows}
        return [kind for kind in KINDS if (kind == "simulated") in found]

    def current(self, kind: str) -> Live | None:
        """The consensus with every ranking and known order in the store; None where that kind has no ranking."""
        with self._lock:
            orders = self._newest_order()
            kept = self._kept.get(kind)
            fresh = self._rankings_after(kept.live.last_ranking if kept else 0, kind)
            if kept is None or kept.orders != orders or self._fit_is_due(kept, fresh):
                return self._fit(kind, orders)
            consensus = kept.live.consensus
            for ranking_id in fresh:
                [(_, ranking)] = self.store.rankings_by_id([ranking_id])
                # What it supersedes, it supersedes in the store; here it stands beside what is there.
                consensus = update_consensus(consensus, ranking, repeat=True)
            if fresh:
                kept.live = Live(kind, consensus, kept.live.known, max(fresh))
                kept.updates += len(fresh)
            return kept.live

    def history(self, live: Live) -> list[Batch]:
        """Agreement over time; see `agreement_over_time`."""
        with self._lock:
            known = self._history.get(live.kind)
            if known is None or known[0] != live.version:
                rows = self.store.rows(
                    "SELECT prompt_id, max(created) AS moment FROM counted_rankings "
                    "WHERE simulated = ? GROUP BY prompt_id",
                    [int(live.kind == "simulated")],
                )
                moments = {row["prompt_id"]: row["moment"] for row in rows}
                known = live.version, agreement_over_time(live.consensus, moments)
                self._history[live.kind] = known
            return known[1]

    def _fit(self, kind: str, orders: int) -> Live | None:
        """A full fit. The newest id is read first: a ranking that comes in between is taken again, not lost."""
        last = max(self._rankings_after(0, kind), default=0)
        rankings = self.store.rankings(kind)
        if not rankings:
            self._kept.pop(kind, None)
            return None
        known = in_force(known_orders(self.store))
        consensus = fit_consensus(
            rankings,
            gold=by_prompt(known, "gold"),
            adjudicated=by_prompt(known, "adjudication"),
        )
        live = Live(kind, consensus, known, last)
        self._kept[kind] = _Kept(live, orders, 0)
        return live

    def _fit_is_due(self, kept: _Kept, fresh: dict[int, bool]) -> bool:
        """`fresh`: id -> whether the ranking supersedes another."""
        held = kept.live.consensus.summary.rankings
        most = max(FEWEST_UPDATES, FIT_SHARE * held)
        return any(fresh.values()) or len(fresh) > MOST_AT_ONCE or kept.updates + len(fresh) > most

    def _rankings_after(self, ranking_id: int, kind: str) -> dict[int, bool]:
        """Ids of the standing rankings after that one, oldest first, and whether each supersedes another."""
        rows = self.store.rows(
            "SELECT ranking_id, supersedes FROM counted_rankings WHERE ranking_id > ? AND simulated = ? "
            "ORDER BY ranking_id",
            [ranking_id, int(kind == "simulated")],
        )
        return {row["ranking_id"]: row["supersedes"] is not None for row in rows}

    def _newest_order(self) -> int:
        """A number that grows with every known order and with every decision about a labeler: either may change which
        rankings count, or what they mean."""
        row = self.store.rows(
            "SELECT coalesce((SELECT max(order_id) FROM known_orders), 0) "
            "+ coalesce((SELECT max(decision_id) FROM decisions), 0) AS newest"
        )
        return row[0]["newest"]


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
