"""Our methods and their peers on simulated pools: right orders, calibration, log loss, flags, and paired intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from alignment.feedback.consensus import consensus_of, orders_of
from alignment.feedback.ranking_table import RankingTable
from benchmarks.consensus_pools import (
    MIXED,
    Oracle,
    Pool,
    calibration_error,
    log_loss,
    pair_truth,
    right_share,
    simulate_pool,
)

NOISES = ("gaussian", "gumbel")
OURS = ("factor", "dawid-skene", "majority", "borda")
SLOW = "crowd-kit NoisyBradleyTerry"

Rows = dict[str, dict[str, Any]]  # method -> figure -> value


def confidence_of(table: RankingTable, method: str) -> np.ndarray:
    """(P, N) confidence that the first completion of each pair is truly better."""
    consensus = consensus_of(table, method)
    assert consensus.workings is not None
    orders = orders_of(consensus.method, consensus.workings)
    if consensus.method != "borda":
        return orders.confidence
    first, second = np.triu_indices(table.ranks.shape[1], 1)
    level = orders.score[:, first] == orders.score[:, second]
    return np.where(level, 0.5, orders.confidence)


def probability_of(table: RankingTable, method: str) -> np.ndarray:
    """(P, N) probability that a typical honest labeler prefers the first completion of each pair."""
    consensus = consensus_of(table, method)
    assert consensus.workings is not None
    return orders_of(consensus.method, consensus.workings).probability()


def measure_pools(
    pools: Iterable[Pool], oracle: Oracle | None, peers: dict[str, Callable], slow: int
) -> Rows:
    """Means over the pools, by method, with the share of right orders of `each` pool; seconds are CPU seconds. The slow
    peer sees only the first `slow` pools."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for number, pool in enumerate(pools):
        truth = pair_truth(pool.utilities)
        methods: dict[str, Callable[[], np.ndarray]] = {
            name: lambda name=name, pool=pool: confidence_of(pool.table, name)
            for name in ("auto", *OURS)
        }
        methods |= {
            name: lambda peer=peer, pool=pool: peer(pool.table)
            for name, peer in peers.items()
            if name != SLOW or number < slow
        }
        if oracle:
            methods["oracle"] = lambda pool=pool: oracle.confidence(pool)
        for name, method in methods.items():
            began = time.process_time()
            p = method()
            seconds = time.process_time() - began
            scores = (
                right_share(p, truth),
                calibration_error(p, truth),
                log_loss(p, truth),
                seconds,
            )
            rows.setdefault(name, []).append(scores)
    keys = ("right", "ece", "log_loss", "seconds")
    return {
        name: dict(zip(keys, np.mean(values, axis=0).tolist(), strict=True))
        | {"pools": len(values), "each": [value[0] for value in values]}
        for name, values in rows.items()
    }


def paired_interval(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval (Student's t) of the difference over pools, or prompts, that both have seen."""
    n = min(len(ours), len(theirs))
    difference = np.array(ours[:n]) - np.array(theirs[:n])
    mean = float(difference.mean())
    half = (
        float(student_t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n))
        if n > 1
        else float("inf")
    )
    return mean, mean - half, mean + half


def measure_flags(seeds: range) -> dict[str, float]:
    """Share of each kind of labeler that is flagged, at 40 rankings each, and how often the kind is named rightly."""
    flagged: dict[str, list[bool]] = {}
    named: dict[str, list[bool]] = {}
    covered: list[bool] = []
    for noise in NOISES:
        for seed in seeds:
            pool = simulate_pool(160, 4, 3, MIXED, 1000 + seed, noise)
            for row, kind in zip(
                consensus_of(pool.table, "factor").labelers, pool.kinds, strict=True
            ):
                flagged.setdefault(kind, []).append(row.flagged)
                named.setdefault(kind, []).append(row.kind == kind)
                if kind in ("careful", "noisy"):
                    truth = 1 / np.sqrt(1 + {"careful": 0.45, "noisy": 1.5}[kind] ** 2)
                    covered.append(row.low <= truth <= row.high)
    bad = [x for kind in ("random", "reversed", "position-biased") for x in flagged[kind]]
    result = {f"flagged {kind}": float(np.mean(values)) for kind, values in flagged.items()}
    result |= {f"named {kind}": float(np.mean(values)) for kind, values in named.items()}
    return result | {"recall": float(np.mean(bad)), "interval covers": float(np.mean(covered))}
