"""How long the consensus takes, how much memory, and what one more ranking costs the page that engineers watch.

Times are CPU seconds of one core, which other jobs on the machine do not change much; peak memory is what tracemalloc
counts, numpy's arrays included, beyond the table of rankings itself.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alignment.feedback.consensus import Consensus, consensus_of, fit_consensus, update_consensus
from alignment.feedback.live_consensus import LiveConsensus
from alignment.feedback.people import Labeler, add_labelers
from alignment.feedback.ranking_table import RankingTable
from alignment.feedback.store import Store
from alignment.records import Completion, Prompt, Ranking
from benchmarks.consensus_pools import MIXED, simulate_pool
from ui import consensus_page

PAGE_PROMPTS = 20_000
UPDATES = 15
MEMORY_SIZES = (20_000, 100_000)


def measure_speed(sizes: Iterable[int]) -> dict[str, float]:
    """CPU seconds from arrays to every figure, from `Ranking` objects, and per update."""
    result = {}
    for prompts in sizes:
        table = simulate_pool(prompts, 4, 3, MIXED, 0, "gaussian").table
        began = time.process_time()
        consensus = consensus_of(table, "factor")
        result[f"{prompts} prompts, arrays"] = time.process_time() - began
        if prompts == 20_000:
            rankings = as_rankings(table)
            began = time.process_time()
            fit_consensus(rankings, method="factor")
            result[f"{prompts} prompts, rankings"] = time.process_time() - began
            result[f"{prompts} prompts, update"] = measure_update(consensus, table)
    return result


def measure_memory(sizes: Iterable[int] = MEMORY_SIZES) -> dict[str, float]:
    """Peak bytes per ranking of a fit, by number of prompts: the same at all sizes where memory is linear."""
    result = {}
    for prompts in sizes:
        table = simulate_pool(prompts, 4, 3, MIXED, 0, "gaussian").table
        tracemalloc.start()
        consensus_of(table, "factor")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        result[f"{prompts} prompts, peak MiB"] = peak / 2**20
        result[f"{prompts} prompts, bytes per ranking"] = peak / len(table.prompt)
    return result


def extra_ranking(table: RankingTable, p: int) -> Ranking:
    """One more ranking of prompt `p`, in the order of its completions."""
    names = table.completion_ids[p]
    return Ranking(
        table.prompt_ids[p],
        table.labeler_ids[p % len(table.labeler_ids)],
        {name: k + 1 for k, name in enumerate(names)},
        {name: k for k, name in enumerate(names)},
    )


def measure_update(consensus: Consensus, table: RankingTable) -> float:
    """Median CPU seconds to add one ranking and read what the UI shows: summary, labelers and the prompt."""
    seconds = []
    for p in range(UPDATES):
        ranking = extra_ranking(table, p)
        began = time.process_time()
        consensus = update_consensus(consensus, ranking)
        consensus.summary.to_json()
        _ = [row.to_json() for row in consensus.labelers]
        consensus.prompts[p].to_json()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def measure_page(prompts: int = PAGE_PROMPTS) -> dict[str, float]:
    """Median CPU seconds of each step by which the consensus page takes up one new ranking from the store."""
    table = simulate_pool(prompts, 4, 3, MIXED, 0, "gaussian").table
    costs: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = step()
        costs.setdefault(name, []).append(time.process_time() - began)
        return result

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "feedback.db", create=True)
        fill(store, table)
        live = LiveConsensus(store)
        at = timed("page, first fit from the store", lambda: live.current("people"))
        assert at is not None
        live.kinds()
        timed("page, first head", lambda: consensus_page.head(at, live))
        for p in range(UPDATES):
            store.add_rankings([replace(extra_ranking(table, p), simulated=False)])
            prompt_id = table.prompt_ids[p]
            timed("page, kinds", live.kinds)
            at = timed("page, catch up", lambda: live.current("people"))
            assert at is not None
            timed("page, head", lambda at=at: consensus_page.head(at, live))
            timed("page, queue", lambda at=at: consensus_page.queue(at, store))
            timed(
                "page, open prompt",
                lambda at=at, prompt_id=prompt_id: consensus_page.dispute_of(prompt_id, at, store),
            )
        store.close()
    return {name: float(np.median(values)) for name, values in costs.items()}


def fill(store: Store, table: RankingTable) -> None:
    """Put the prompts, completions, labelers and rankings of a table into an empty store, as those of people."""
    store.add_prompts([Prompt(p, f"Say {p}") for p in table.prompt_ids])
    store.add_tasks(
        [
            Completion(name, p, f"text {name}")
            for p, names in zip(table.prompt_ids, table.completion_ids, strict=True)
            for name in names
        ],
        3,
    )
    add_labelers(store, [Labeler(name, name, simulated=False) for name in table.labeler_ids])
    store.add_rankings([replace(r, simulated=False) for r in as_rankings(table)])


def as_rankings(table: RankingTable) -> list[Ranking]:
    """The rows of a table as records."""
    return [
        Ranking(
            table.prompt_ids[p],
            table.labeler_ids[labeler],
            dict(zip(table.completion_ids[p], ranks, strict=True)),
            dict(zip(table.completion_ids[p], places, strict=True)),
        )
        for p, labeler, ranks, places in zip(
            table.prompt.tolist(),
            table.labeler.tolist(),
            table.ranks.tolist(),
            table.places.tolist(),
            strict=True,
        )
    ]
