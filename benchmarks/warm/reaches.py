"""The figures of the warm workers, those with a reach first."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.report import Figure, Reach

Measured = Mapping[str, Any]
ONLY_IN_FILE = ("held", "jobs", "events")
"""Lists that are too long for a table."""


def _wrong_ends(measured: Measured) -> float:
    """Return how many requests were lost, run twice, or failed without a reason."""
    fates = measured["chaos"]
    return sum(
        fates[name] for name in ("lost (never ended)", "run twice", "failed without a reason")
    )


def _warm_to_cold(measured: Measured) -> float:
    """Return which share of the cold median a warm worker takes from row to tuner."""
    warm_s = measured["warm"]["sensor alone: its start -> first step begins"]["median_s"]
    return warm_s / measured["cold"]["cold: row -> tuner entered"]["median_s"]


def _apart(workload: Measured, key: str) -> float:
    """Return how far live and simulated are apart, percent of the simulated."""
    live, simulated = workload["live"][key], workload["simulated"][key]
    if live == simulated:
        return 0.0
    return 100.0 * abs(live - simulated) / simulated if simulated else float("inf")


_BEGINS = "its start -> first step begins"


def with_reach(measured: Measured) -> list[Figure]:
    """Return the figures that have a reach, of the parts that were measured."""
    found = []
    if "warm" in measured:
        warm = measured["warm"]
        first = warm["claim -> first step begins"]
        found += [
            Figure("claim -> first step, median", first["median_s"], "s", Reach(at_most=0.3)),
            Figure("claim -> first step, p95", first["p95_s"], "s", Reach(at_most=0.3)),
            Figure(
                "command line -> first step, p95",
                warm[f"command line: {_BEGINS}"]["p95_s"],
                "s",
                Reach(at_most=1.5),
            ),
            Figure(
                "sensor alone -> first step, p95",
                warm[f"sensor alone: {_BEGINS}"]["p95_s"],
                "s",
                Reach(at_most=8.0),
            ),
        ]
    if {"warm", "cold"} <= measured.keys():
        share = _warm_to_cold(measured)
        found.append(Figure("warm / cold, medians from the row", share, "", Reach(at_most=0.2)))
    if "kill" in measured:
        again_s = measured["kill"]["killed -> training again elsewhere"]["max_s"]
        lost = measured["kill"]["steps lost, at most (checkpoint every 10)"]
        found += [
            Figure("killed -> training again, largest", again_s, "s", Reach(at_most=30.0)),
            Figure("steps lost, largest", lost, "", Reach(at_most=10)),
        ]
    if "chaos" in measured:
        name = "requests lost, run twice or failed without a reason"
        found.append(Figure(name, _wrong_ends(measured), "", Reach(0, 0)))
    for name, workload in measured.get("simulated", {}).items():
        if name == "measured before":
            continue
        found += [
            Figure(f"live / simulator, {figure}: {name}", _apart(workload, key), "%", Reach(0, 10))
            for figure, key in (("violations", "violations"), ("cost", "worker_s"))
        ]
    return found


def all_figures(measured: Measured) -> list[Figure]:
    """Return the figures with a reach, then every other number that was measured."""
    return [*with_reach(measured), *_numbers(measured, "")]


def _numbers(value: Any, name: str) -> Iterator[Figure]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in ONLY_IN_FILE:
                yield from _numbers(inner, f"{name}: {key}" if name else str(key))
    elif isinstance(value, int | float):
        yield Figure(name.removesuffix("_s"), value, "s" if name.endswith("_s") else "")
