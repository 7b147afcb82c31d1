"""The figures promised, held against what was measured."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.consensus_simulated import NOISES, SLOW, Rows, paired_interval

UPDATE_STEPS = ("page, kinds", "page, catch up", "page, head", "page, queue")


class Figure(NamedTuple):
    """One promise. `low`, `high`: paired 95% interval of a comparison on the same pools or people, else None."""

    name: str
    target: str
    value: float
    reached: bool
    low: float | None = None
    high: float | None = None


def at_least(name: str, value: float, target: float, *interval: float) -> Figure:
    return Figure(name, f"at least {target:g}", value, value >= target, *interval)


def at_most(name: str, value: float, target: float, *interval: float) -> Figure:
    return Figure(name, f"at most {target:g}", value, value <= target, *interval)


def points_over(rows: Rows, ours: str, theirs: str) -> tuple[float, float, float]:
    """Points by which one method orders more pairs rightly than another, with the paired interval over pools."""
    mean, low, high = paired_interval(rows[ours]["each"], rows[theirs]["each"])
    return 100 * mean, 100 * low, 100 * high


def promised_order(pools: dict[str, Rows], noise: str) -> list[Figure]:
    """What was promised of orders and confidences, for one noise family."""
    rows, honest = pools[f"mixed, {noise}"], pools[f"honest, {noise}"]
    auto = rows["auto"]
    margins = {"borda": 11, "majority": 10, SLOW: 8, "dawid-skene": 0.5}
    margins |= {"crowd-kit DawidSkene": 0.5, "crowd-kit OneCoinDawidSkene": 0.5}
    figures = []
    for name, points in margins.items():
        if name in rows:
            value, *interval = points_over(rows, "auto", name)
            figures.append(at_least(f"{noise}: points over {name}", value, points, *interval))
    value, *interval = points_over(rows, "oracle", "auto")
    figures.append(at_most(f"{noise}: points below the oracle", value, 0.5, *interval))
    small = pools[f"500, {noise}"]["auto"]["ece"]
    figures += [
        at_most(f"{noise}: calibration error", auto["ece"], 0.025),
        at_most(f"{noise}: calibration error, 500 prompts", small, 0.025),
        at_most(f"{noise}: log loss", auto["log_loss"], 0.335),
    ]
    value, *interval = points_over(honest, "borda", "auto")
    figures.append(at_most(f"{noise}: honest pool, points below borda", value, 0.2, *interval))
    for case in ("two completions", "12 prompts"):
        rows = pools[f"{case}, {noise}"]
        for name in ("dawid-skene", "crowd-kit OneCoinDawidSkene"):
            if name in rows:
                value, *interval = points_over(rows, "auto", name)
                figures.append(
                    at_least(f"{noise}: {case}, points over {name}", value, 0, *interval)
                )
    return figures


def promised_times_faster(pools: dict[str, Rows]) -> list[Figure]:
    """CPU seconds beside those of the slow peer, on the same pools."""
    rows = pools["mixed, gaussian"]
    if SLOW not in rows:
        return []
    ratio = rows[SLOW]["seconds"] / rows["auto"]["seconds"]
    return [at_least(f"times faster than {SLOW}", ratio, 50)]


def promised_speed(speed: dict[str, float]) -> list[Figure]:
    """What was promised of speed and memory."""
    figures = [
        at_most("CPU seconds for 20,000 prompts", speed["20000 prompts, arrays"], 1),
        at_most("CPU seconds for 20,000 prompts from records", speed["20000 prompts, rankings"], 1),
        at_most("CPU seconds per update, 20,000 prompts", speed["20000 prompts, update"], 0.05),
        at_most(
            "CPU seconds, the page takes up one ranking at 20,000 prompts",
            sum(speed[step] for step in UPDATE_STEPS),
            0.05,
        ),
    ]
    if "200000 prompts, arrays" in speed:
        figures.append(
            at_most("CPU seconds for 200,000 prompts", speed["200000 prompts, arrays"], 3)
        )
    each = [value for name, value in speed.items() if name.endswith("bytes per ranking")]
    figures.append(
        at_most("bytes per ranking, largest size beside smallest", each[-1] / each[0], 1.05)
    )
    return figures


def promised_real(name: str, rows: Rows) -> list[Figure]:
    """What was promised of held-out people in one data set: level with the best of the other methods, or better."""
    others = [method for method in rows if method not in ("auto", "factor", "dawid-skene")]
    best = max(others, key=lambda method: rows[method]["accuracy"])
    surest = min(others, key=lambda method: rows[method]["log_loss"])
    accuracy = [100 * x for x in rows["auto"]["accuracy beside"][best]]
    loss = rows["auto"]["log_loss beside"][surest]
    return [
        at_least(f"{name}: accuracy over {best}, points", accuracy[0], 0, *accuracy[1:]),
        at_most(f"{name}: log loss over {surest}", loss[0], 0, *loss[1:]),
    ]


def promised(results: dict[str, Any]) -> list[Figure]:
    """Every figure that was promised and measured."""
    figures = []
    pools = results.get("pools", {})
    if pools:
        for noise in NOISES:
            if f"12 prompts, {noise}" in pools:
                figures += promised_order(pools, noise)
        figures += promised_times_faster(pools)
    if "flags" in results:
        flags = results["flags"]
        figures.append(at_least("flags: recall of bad labelers", flags["recall"], 0.9))
        figures.append(at_most("flags: careful labelers", flags["flagged careful"], 0.02))
    if "speed" in results:
        figures += promised_speed(results["speed"])
    for name, rows in results.get("real", {}).items():
        figures += promised_real(name, rows)
    return figures
