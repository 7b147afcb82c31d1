"""The consensus against what a user could install instead: `python -m benchmarks.consensus [--quick] [--data DIR]`.

Simulated pools with known truth (12 labelers, 3 per prompt, two noise families), real data where DIR holds it, speed,
calibration, and flags. Prints tables and the figures promised with what was measured; `--json FILE` keeps them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alignment.feedback.consensus import (
    Consensus,
    consensus_of,
    fit_consensus,
    orders_of,
    update_consensus,
)
from alignment.feedback.ranking_table import RankingTable
from alignment.records import Ranking
from benchmarks import consensus_real as real
from benchmarks.consensus_peers import installed_peers, missing_peers
from benchmarks.consensus_pools import (
    HONEST,
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
DATA = Path("../shared/data")
SLOW = "crowd-kit NoisyBradleyTerry"

Rows = dict[str, dict[str, float]]


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
    """Means over the pools, by method; the slow peer sees only the first `slow` of them."""
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
            began = time.perf_counter()
            p = method()
            seconds = time.perf_counter() - began
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
        | {"pools": len(values)}
        for name, values in rows.items()
    }


def print_rows(title: str, rows: Rows) -> None:
    print(f"\n{title}\n{'':34s} rightly   ECE    log loss  seconds  pools")
    for name, row in rows.items():
        print(
            f"{name:34s}  {row['right']:.4f}  {row['ece']:.4f}  {row['log_loss']:.4f}   {row['seconds']:7.3f}"
            f"  {row['pools']:4d}"
        )


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


def measure_speed(sizes: Iterable[int]) -> dict[str, float]:
    """CPU seconds (which other jobs on the machine do not change) from arrays to every figure, from `Ranking` objects,
    and per update; peak memory."""
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
    result["peak memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def measure_update(consensus: Consensus, table: RankingTable) -> float:
    """Median CPU seconds to add one ranking and read what the UI shows: summary, labelers and the prompt."""
    seconds = []
    for p in range(15):
        names = table.completion_ids[p]
        ranking = Ranking(
            table.prompt_ids[p],
            table.labeler_ids[p % len(table.labeler_ids)],
            {name: k + 1 for k, name in enumerate(names)},
            {name: k for k, name in enumerate(names)},
        )
        began = time.process_time()
        consensus = update_consensus(consensus, ranking)
        consensus.summary.to_json()
        _ = [row.to_json() for row in consensus.labelers]
        consensus.prompts[p].to_json()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


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


def measure_real(
    data: Path, peers: dict[str, Callable], quick: bool
) -> dict[str, dict[str, tuple[float, float]]]:
    """Accuracy and log loss on held-out people, by data set and fault."""
    ours = {name: lambda table, name=name: probability_of(table, name) for name in ("auto", *OURS)}
    fast = ours | {name: peer for name, peer in peers.items() if name != SLOW}
    every = ours | ({} if quick else dict(peers)) | fast
    tables = {}
    for fault in real.FAULTS:
        what = f", a quarter {fault}" if fault else ""
        tables[f"PandaLM{what}"] = real.pandalm(data, every, fault, range(1 if quick else 5))
        tables[f"Ruddit{what}"] = real.ruddit(
            data, fast, fault, range(1 if quick else 3), 1000 if quick else 4000
        )
    return tables


Figure = tuple[str, str, float, bool]


def at_least(name: str, value: float, target: float) -> Figure:
    return name, f"at least {target:g}", value, value >= target


def at_most(name: str, value: float, target: float) -> Figure:
    return name, f"at most {target:g}", value, value <= target


def promised_order(pools: dict[str, Rows], noise: str) -> list[Figure]:
    """What was promised of orders and confidences, for one noise family."""
    rows, honest = pools[f"mixed, {noise}"], pools[f"honest, {noise}"]
    auto = rows["auto"]
    margins = {"borda": 11, "majority": 10, SLOW: 8, "dawid-skene": 0.5}
    margins |= {"crowd-kit DawidSkene": 0.5, "crowd-kit OneCoinDawidSkene": 0.5}
    figures = [
        at_least(
            f"{noise}: points over {name}", 100 * (auto["right"] - rows[name]["right"]), points
        )
        for name, points in margins.items()
        if name in rows
    ]
    figures += [
        at_most(
            f"{noise}: points below the oracle",
            100 * (rows["oracle"]["right"] - auto["right"]),
            0.5,
        ),
        at_most(f"{noise}: calibration error", auto["ece"], 0.025),
        at_most(
            f"{noise}: calibration error, 500 prompts", pools[f"500, {noise}"]["auto"]["ece"], 0.025
        ),
        at_most(f"{noise}: log loss", auto["log_loss"], 0.335),
        at_most(
            f"{noise}: honest pool, points below borda",
            100 * (honest["borda"]["right"] - honest["auto"]["right"]),
            0.2,
        ),
    ]
    for case in ("two completions", "12 prompts"):
        rows = pools[f"{case}, {noise}"]
        for name in ("dawid-skene", "crowd-kit OneCoinDawidSkene"):
            if name in rows:
                gap = 100 * (rows["auto"]["right"] - rows[name]["right"])
                figures.append(at_least(f"{noise}: {case}, points over {name}", gap, 0))
    return figures


def promised_speed(pools: dict[str, Rows], speed: dict[str, float]) -> list[Figure]:
    """What was promised of speed."""
    figures = [
        at_most("CPU seconds for 20,000 prompts", speed["20000 prompts, arrays"], 1),
        at_most("CPU seconds for 20,000 prompts from records", speed["20000 prompts, rankings"], 1),
        at_most("CPU seconds per update, 20,000 prompts", speed["20000 prompts, update"], 0.05),
    ]
    if "200000 prompts, arrays" in speed:
        figures.append(
            at_most("CPU seconds for 200,000 prompts", speed["200000 prompts, arrays"], 3)
        )
    rows = pools["mixed, gaussian"]
    if SLOW in rows:
        ratio = rows[SLOW]["seconds"] / rows["auto"]["seconds"]
        figures.append(at_least(f"times faster than {SLOW}", ratio, 50))
    return figures


def promised_real(name: str, rows: dict[str, tuple[float, float]]) -> list[Figure]:
    """What was promised of held-out people in one data set: level with the best of the other methods, or better."""
    others = [
        row for method, row in rows.items() if method not in ("auto", "factor", "dawid-skene")
    ]
    accuracy = 100 * (rows["auto"][0] - max(accuracy for accuracy, _ in others))
    loss = rows["auto"][1] - min(loss for _, loss in others)
    return [
        at_least(f"{name}: accuracy over the best peer, points", accuracy, 0),
        at_most(f"{name}: log loss over the best peer", loss, 0),
    ]


def promised(results: dict[str, Any]) -> list[Figure]:
    """(figure, target, measured, reached) for every figure that was promised and measured."""
    flags = results["flags"]
    return [
        *(figure for noise in NOISES for figure in promised_order(results["pools"], noise)),
        at_least("flags: recall of bad labelers", flags["recall"], 0.9),
        at_most("flags: careful labelers", flags["flagged careful"], 0.02),
        *promised_speed(results["pools"], results["speed"]),
        *(
            figure
            for name, rows in results.get("real", {}).items()
            for figure in promised_real(name, rows)
        ),
    ]


def run(quick: bool, seed: int, data: Path | None) -> dict[str, Any]:
    """Every measurement, as plain data; tables are printed as they come."""
    peers = installed_peers()
    if missing_peers():
        print(
            f"Not installed, and so left out: {', '.join(missing_peers())} (pip install 'concord-rlhf[bench]')."
        )
    pools: dict[str, Rows] = {}
    seeds = range(seed, seed + (2 if quick else 12))
    many = range(seed, seed + (20 if quick else 100))
    prompts = 500 if quick else 2000
    for noise in NOISES:
        oracle = Oracle(4, noise)
        slow = 0 if quick else {"gaussian": 12, "gumbel": 2}[noise]
        for name, args, chosen, knows, most_slow in (
            ("mixed", (prompts, 4, 3, MIXED), seeds, oracle, slow),
            ("honest", (prompts, 4, 3, HONEST), seeds, oracle, 0),
            ("500", (500, 4, 3, MIXED), seeds, None, 0),
            ("two completions", (prompts, 2, 3, MIXED), seeds, None, 0),
            ("nine completions", (prompts // 4, 9, 3, MIXED), seeds, None, 0),
            ("12 prompts", (12, 4, 3, MIXED), many, None, 0),
        ):
            drawn = (simulate_pool(*args, chosen_seed, noise) for chosen_seed in chosen)
            pools[f"{name}, {noise}"] = rows = measure_pools(drawn, knows, peers, most_slow)
            print_rows(f"{name}, {noise} ({args[0]} prompts, {args[1]} completions)", rows)
    results: dict[str, Any] = {"pools": pools}
    results["flags"] = measure_flags(range(6 if quick else 30))
    print("\nLabelers with 40 rankings")
    print_figures(results["flags"])
    results["speed"] = measure_speed((2000, 20_000) if quick else (2000, 20_000, 200_000))
    print("\nSpeed, CPU seconds")
    print_figures(results["speed"])
    if data is None:
        print("\nNo --data folder: PandaLM, Ruddit and ConvAbuse are left out.")
    else:
        results["real"] = measure_real(data, peers, quick)
        for name, rows in results["real"].items():
            print(f"\n{name}: held-out people\n{'':34s} accuracy  log loss")
            for method, (accuracy, loss) in rows.items():
                print(f"{method:34s}  {accuracy:.4f}    {loss:.4f}")
        results["convabuse"] = real.convabuse_alpha(data)
        print("\nConvAbuse, Krippendorff's alpha (ordinal)")
        print_figures(results["convabuse"])
    results["promised"] = promised(results)
    print(
        "\nPromised"
        + (" (two small pools: a figure near its target may miss by chance)" if quick else "")
    )
    for name, target, value, reached in results["promised"]:
        print(f"{'reached' if reached else 'MISSED '}  {name:62s} {target:16s} {value:9.4f}")
    return results


def print_figures(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(f"  {name:32s} {value:10.4f}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consensus", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer and smaller pools, half a minute"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first pool")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA if DATA.is_dir() else None,
        help=f"folder with pandalm/, ruddit/ and convabuse/; {DATA} where there is one",
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    if options.data is not None and not options.data.is_dir():
        sys.exit(f"{options.data} is not a folder.")
    results = run(options.quick, options.seed, options.data)
    if options.json:
        options.json.write_text(
            json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
