"""A snapshot of the rankings: frozen when a run is asked for, so that what comes in later does not enter it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import InputError
from alignment.feedback import agreement
from alignment.feedback.known_orders import KnownOrder, in_force, known_orders
from alignment.feedback.pair_votes import votes_of
from alignment.feedback.ranking_table import table_of
from alignment.feedback.store import Store
from alignment.files import read_json, read_jsonl, write_json, write_jsonl
from alignment.records import Ranking

RANKINGS_FILE, KNOWN_ORDERS_FILE = "rankings.jsonl", "known_orders.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rankings of all kinds, and the orders known to be true, of one moment."""

    rankings: list[Ranking]
    known_orders: list[KnownOrder]


def take(store: Store) -> Snapshot:
    """What the store holds now."""
    return Snapshot(store.rankings(), in_force(known_orders(store)))


def write(snapshot: Snapshot, folder: Path) -> None:
    """Keep it in a run's folder."""
    write_jsonl(folder / RANKINGS_FILE, [r.to_json() for r in snapshot.rankings])
    write_json(folder / KNOWN_ORDERS_FILE, [order.to_json() for order in snapshot.known_orders])


def is_in(folder: Path) -> bool:
    """Whether a run's folder keeps a snapshot; those of older runs do not."""
    return (folder / RANKINGS_FILE).is_file()


def read(folder: Path) -> Snapshot:
    """The snapshot in a run's folder."""
    orders = [KnownOrder(**row) for row in read_json(folder / KNOWN_ORDERS_FILE)]
    return Snapshot(read_jsonl(folder / RANKINGS_FILE, Ranking.from_json), orders)


def counting(rankings: Sequence[Ranking], labelers: str) -> list[Ranking]:
    """Those of `people`, `simulated`, `all`, or `auto`: whichever kind there is, a mixture refused.

    Raises `InputError` where none is left.
    """
    if labelers == "auto" and len({ranking.simulated for ranking in rankings}) > 1:
        raise InputError(
            "There are rankings of people and of simulated labelers. They are not mixed silently: choose with "
            "--set consensus.labelers=people, simulated or all (in the form of consensus: labelers)."
        )
    found = list(rankings)
    if labelers in ("people", "simulated"):
        found = [r for r in rankings if r.simulated == (labelers == "simulated")]
    if not found:
        raise InputError(
            "There are no rankings to combine. Let people rank in `concord ui`, run `concord labelers simulate`, "
            "or give --rankings."
        )
    return found


def figures(rankings: Sequence[Ranking]) -> dict[str, Any] | None:
    """Counts and agreement; None of no rankings. `pairs`: pairs of completions that somebody compared."""
    if not rankings:
        return None
    table = table_of(rankings)
    starts = table.starts[:-1]
    votes = votes_of(table.ranks, starts)
    counts = agreement.value_counts(table.ranks, starts)
    alpha, _ = agreement.krippendorff_alpha(counts, table.ranks.shape[1], seed=0)
    return {
        "prompts": len(table.prompt_ids),
        "rankings": len(rankings),
        "labelers": len(table.labeler_ids),
        "pairs": int((votes.wins + votes.losses + votes.ties > 0).sum()),
        "krippendorff_alpha": alpha,
        "pairwise_agreement": agreement.pairwise_agreement(votes),
    }
