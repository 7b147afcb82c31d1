"""The consensus against what a user could install instead: `python -m benchmarks.consensus [--part PART]`.

Simulated pools with known truth (12 labelers, 3 per prompt, two noise families), flags, speed and memory, and real data
where DIR holds it. Prints tables and the figures promised with what was measured. A full run takes half an hour of one
core: `--part` measures a part of it, `--json FILE` merges what was measured into the file, table by table, and
`--resume` leaves out the tables that the file already has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import consensus_real as real
from benchmarks.consensus_peers import installed_peers, missing_peers
from benchmarks.consensus_pools import HONEST, MIXED, Oracle, simulate_pool
from benchmarks.consensus_promised import promised
from benchmarks.consensus_simulated import (
    NOISES,
    OURS,
    SLOW,
    Rows,
    measure_flags,
    measure_pools,
    probability_of,
)
from benchmarks.consensus_speed import measure_memory, measure_page, measure_speed

PARTS = ("simulated", "speed", "real")

Table = tuple[str, str, Callable[[], dict[str, Any]]]  # section, name within it, what measures it


def simulated_tables(quick: bool, seed: int) -> Iterator[Table]:
    """The pools of both noise families, and the flags."""
    peers = installed_peers()
    seeds = range(seed, seed + (2 if quick else 12))
    many = range(seed, seed + (20 if quick else 100))
    prompts = 500 if quick else 2000
    for noise in NOISES:
        slow = 0 if quick else 3
        for name, args, chosen, knows, most_slow in (
            ("mixed", (prompts, 4, 3, MIXED), seeds, True, slow),
            ("honest", (prompts, 4, 3, HONEST), seeds, True, 0),
            ("500", (500, 4, 3, MIXED), seeds, False, 0),
            ("two completions", (prompts, 2, 3, MIXED), seeds, False, 0),
            ("nine completions", (prompts // 4, 9, 3, MIXED), seeds, False, 0),
            ("12 prompts", (12, 4, 3, MIXED), many, False, 0),
        ):

            def table(
                args=args, chosen=chosen, knows=knows, most_slow=most_slow, noise=noise
            ) -> Rows:
                drawn = (simulate_pool(*args, one, noise) for one in chosen)
                return measure_pools(drawn, Oracle(4, noise) if knows else None, peers, most_slow)

            yield "pools", f"{name}, {noise}", table
    yield "flags", "", lambda: measure_flags(range(6 if quick else 30))


def speed_tables(quick: bool) -> Iterator[Table]:
    """Seconds, memory, and the page."""
    sizes = (2000, 20_000) if quick else (2000, 20_000, 200_000)
    yield "speed", "", lambda: measure_speed(sizes) | measure_memory() | measure_page()


def real_tables(quick: bool, data: Path) -> Iterator[Table]:
    """Held-out people, by data set and fault; and agreement on ConvAbuse by two implementations."""
    peers = installed_peers()
    ours = {name: lambda table, name=name: probability_of(table, name) for name in ("auto", *OURS)}
    fast = ours | {name: peer for name, peer in peers.items() if name != SLOW}
    for fault in real.FAULTS:
        what = f", a quarter {fault}" if fault else ""
        most = range(1 if quick else 10)
        yield "real", f"PandaLM{what}", lambda f=fault, m=most: real.pandalm(data, fast, f, m)
        few, prompts = range(1 if quick else 3), 1000 if quick else 4000
        yield (
            "real",
            f"Ruddit{what}",
            lambda f=fault, m=few, n=prompts: real.ruddit(data, fast, f, m, n),
        )
    yield "convabuse", "", lambda: real.convabuse_alpha(data)


def print_table(section: str, name: str, table: dict[str, Any]) -> None:
    if section == "pools":
        print(f"\n{name}\n{'':34s} rightly   ECE    log loss  seconds  pools")
        for method, row in table.items():
            print(
                f"{method:34s}  {row['right']:.4f}  {row['ece']:.4f}  {row['log_loss']:.4f}   {row['seconds']:7.3f}"
                f"  {row['pools']:4d}"
            )
    elif section == "real":
        print(
            f"\n{name}: held-out people\n{'':34s} accuracy  log loss  accuracy of auto beside it, points"
        )
        for method, row in table.items():
            mean, low, high = (100 * x for x in table["auto"]["accuracy beside"][method])
            beside = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" if method != "auto" else ""
            print(f"{method:34s}  {row['accuracy']:.4f}    {row['log_loss']:.4f}    {beside}")
    else:
        titles = {
            "flags": "Labelers with 40 rankings",
            "speed": "Speed, CPU seconds, and memory",
            "convabuse": "ConvAbuse, Krippendorff's alpha (ordinal)",
        }
        print(f"\n{titles[section]}")
        for figure, value in table.items():
            print(f"  {figure:36s} {value:12.4f}")


def print_promised(results: dict[str, Any], quick: bool) -> None:
    print(
        "\nPromised"
        + (" (few small pools: a figure near its target may miss by chance)" if quick else "")
    )
    for figure in promised(results):
        interval = "" if figure.low is None else f"  ({figure.low:+.3f} to {figure.high:+.3f})"
        print(
            f"{'reached' if figure.reached else 'MISSED '}  {figure.name:66s} {figure.target:14s}"
            f" {figure.value:9.4f}{interval}"
        )


def tables_of(options: argparse.Namespace) -> Iterator[Table]:
    """The tables of the parts that were asked for."""
    parts = options.part or PARTS
    if "simulated" in parts:
        yield from simulated_tables(options.quick, options.seed)
    if "speed" in parts:
        yield from speed_tables(options.quick)
    if "real" in parts and options.data is None:
        print("\nNo --data folder: PandaLM, Ruddit and ConvAbuse are left out.")
    elif "real" in parts:
        yield from real_tables(options.quick, options.data)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and keep table after table; all that is known afterwards, as plain data."""
    if missing_peers():
        print(
            f"Not installed, and so left out: {', '.join(missing_peers())} (pip install 'concord-rlhf[bench]')."
        )
    results: dict[str, Any] = {}
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text(encoding="utf-8"))
    for section, name, measure in tables_of(options):
        kept = results.setdefault(section, {})
        known = name in kept if name else bool(kept)
        if options.resume and known:
            continue
        table = measure()
        print_table(section, name, table)
        sys.stdout.flush()
        if name:
            kept[name] = table
        else:
            results[section] = table
        if options.json:
            text = json.dumps(results, indent=1, allow_nan=False)
            options.json.write_text(text + "\n", encoding="utf-8")
    results = {section: kept for section, kept in results.items() if kept}
    print_promised(results, options.quick)
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consensus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller pools, a minute")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="only this part; may be given repeatedly"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first pool")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with pandalm/, ruddit/ and convabuse/; without it the part `real` is left out",
    )
    parser.add_argument("--json", type=Path, help="merge all figures into this file")
    parser.add_argument(
        "--resume", action="store_true", help="leave out the tables that the --json file has"
    )
    options = parser.parse_args(arguments)
    if options.data is not None and not options.data.is_dir():
        sys.exit(f"{options.data} is not a folder.")
    if options.resume and options.json is None:
        sys.exit("--resume needs --json FILE.")
    run(options)


if __name__ == "__main__":
    main()
