"""What the figures of the warm workers are to reach, and a table of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
COLUMNS = ("figure", "reach", "measured", "")


@dataclass(frozen=True)
class Reach:
    """`measured` finds the figure's number in what was measured, and is at most `most`."""

    figure: str
    text: str
    most: float
    unit: str
    measured: Callable[[Figures], float]


def _spread(of: str, stage: str, which: str) -> Callable[[Figures], float]:
    return lambda figures: figures[of][stage][which]


def _once_each(figures: Figures) -> float:
    """Requests that were lost, run twice, or failed without a reason."""
    fates = figures["chaos"]
    return sum(
        fates[name] for name in ("lost (never ended)", "run twice", "failed without a reason")
    )


def _warm_to_cold(figures: Figures) -> float:
    """Row to tuner, by the sensor alone: the share of the cold median that a warm worker takes."""
    warm_s = figures["warm"]["sensor alone: its start -> first step begins"]["median_s"]
    return warm_s / figures["cold"]["cold: row -> tuner entered"]["median_s"]


def _apart(workload: str, figure: str) -> Callable[[Figures], float]:
    """How far live and simulated are apart, percent of the simulated."""

    def measured(figures: Figures) -> float:
        live, simulated = (figures["simulated"][workload][way][figure] for way in _WAYS)
        if live == simulated:
            return 0.0
        return 100.0 * abs(live - simulated) / simulated if simulated else float("inf")

    return measured


_WAYS = ("live", "simulated")
_BEGINS = "its start -> first step begins"


def reaches(figures: Figures) -> list[Reach]:
    """Those that what was measured says something of."""
    found = []
    if "warm" in figures:
        found += [
            Reach("claim of an idle worker -> first step, median", "0.3 s", 0.3, "s",
                  _spread("warm", "claim -> first step begins", "median_s")),
            Reach("the same, p95", "0.3 s", 0.3, "s",
                  _spread("warm", "claim -> first step begins", "p95_s")),
            Reach("command line -> first step, p95", "1.5 s", 1.5, "s",
                  _spread("warm", f"command line: {_BEGINS}", "p95_s")),
            Reach("sensor alone -> first step, p95", "8 s", 8.0, "s",
                  _spread("warm", f"sensor alone: {_BEGINS}", "p95_s")),
        ]  # fmt: skip
    if {"warm", "cold"} <= figures.keys():
        found.append(Reach("warm / cold, medians from the row", "1 / 5", 0.2, "", _warm_to_cold))
    if "kill" in figures:
        found += [
            Reach("killed -> training again elsewhere, largest", "30 s", 30.0, "s",
                  _spread("kill", "killed -> training again elsewhere", "max_s")),
            Reach("steps lost, largest", "10", 10, "",
                  lambda figures: figures["kill"]["steps lost, at most (checkpoint every 10)"]),
        ]  # fmt: skip
    if "chaos" in figures:
        found.append(
            Reach("requests lost, run twice or failed without a reason", "0", 0, "", _once_each)
        )
    for name in [name for name in figures.get("simulated", {}) if name != "measured before"]:
        found += [
            Reach(f"live from simulator, {figure}: {name}", "10 %", 10.0, "%", _apart(name, key))
            for figure, key in (("violations", "violations"), ("cost", "worker_s"))
        ]
    return found


def table(figures: Figures) -> str:
    """A line a reach: the figure, what it is to reach, what was measured, and whether it does."""
    rows = [COLUMNS]
    for reach in reaches(figures):
        value = reach.measured(figures)
        met = "met" if value <= reach.most else "short"
        rows.append((reach.figure, reach.text, f"{value:.3g} {reach.unit}".strip(), met))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
