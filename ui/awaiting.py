"""What awaits a verdict, first thing on the Review page: evaluations, and blind pairs that wait for the caller."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.feedback import blind
from alignment.feedback.next_steps import next_steps
from alignment.feedback.people import Account
from alignment.feedback.rounds import rounds
from alignment.feedback.runs import Run
from alignment.feedback.store import Store
from ui import evaluations
from ui.shell import fragment
from ui.times import ago


def awaiting_panel(store: Store, who: Account, awaits: Sequence[Run]) -> str:
    """A link to each evaluation that `awaits` a verdict, and the way to the blind comparison where pairs wait."""
    done, pair = rounds(store), blind.next_pair(store, who.account_id)
    rows = [
        {"run": run, "models": evaluations.models_of(run), "ago": ago(run.started)}
        for run in awaits
    ]
    return fragment(
        "awaiting.html",
        rows=rows,
        next=next_steps(store)["reviewer"],
        round=done[-1] if done else None,
        pairs=0 if pair is None else pair.total - pair.number + 1,
    )
