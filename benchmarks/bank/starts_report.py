"""What the comparisons of starts come to: medians over tasks with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.bank.starts import Comparison

DRAWS = 4000
Figure = Callable[[Comparison], float | None]


def report(found: Sequence[Comparison], max_iterations: int) -> dict[str, Any]:
    """All figures, each beside its reach."""
    starts = list(found[0].runs)
    figures = [
        _ratio(found, "iterations, cold / bank", _iterations("cold"), _iterations("bank"), 3.0),
        _ratio(found, "iterations, text / bank", _iterations("text"), _iterations("bank"), 1.3),
        _ratio(found, "seconds, cold / bank with lookup", _seconds("cold"), _seconds("bank"), 2.0),
    ]
    far = "bank without relatives"
    if far in starts:
        figures += [
            _ratio(found, f"iterations, cold / {far}", _iterations("cold"), _iterations(far)),
            _ratio(found, f"iterations, text / {far}", _iterations("text"), _iterations(far)),
            _ratio(found, f"seconds, cold / {far}", _seconds("cold"), _seconds(far)),
        ]
    return {
        "tasks": len({one.task for one in found}),
        "runs_of_each_start": len(found),
        "max_iterations": max_iterations,
        "figures": figures,
        "lookup_seconds_median": float(
            np.median([one.runs["bank"]["lookup_seconds"] for one in found])
        ),
        "reached": {s: sum(one.runs[s]["reached"] for one in found) for s in starts},
        "median_iterations": {
            s: float(np.median([one.runs[s]["iterations"] for one in found])) for s in starts
        },
        "by_task": [_of_task(name, found) for name in sorted({one.task for one in found})],
    }


def print_report(figures: dict[str, Any]) -> None:
    """The report for people."""
    print(
        f"\n{figures['tasks']} held-out tasks, {figures['runs_of_each_start']} runs of each start; "
        f"a run that does not reach its target in {figures['max_iterations']} iterations counts "
        f"as so many"
    )
    for figure in figures["figures"]:
        reach = "" if figure["reach"] is None else f"; reach {figure['reach']:g}"
        print(
            f"{figure['name']}: {figure['median']:.2f} "
            f"(95 % interval {figure['low']:.2f} to {figure['high']:.2f}, "
            f"{figure['tasks']} tasks, {figure['runs']} runs){reach}"
        )
    print(f"lookup, median: {figures['lookup_seconds_median']:.2f} s")
    for start, reached in figures["reached"].items():
        print(
            f"reached from {start}: {reached} of {figures['runs_of_each_start']}, "
            f"median of {figures['median_iterations'][start]:g} iterations"
        )
    for row in figures["by_task"]:
        counts = ", ".join(f"{start} {n:g}" for start, n in row["iterations"].items())
        print(f"  {row['task']} ({row['relatives']} relatives in the bank): {counts}")


def _ratio(
    found: Sequence[Comparison], name: str, over: Figure, under: Figure, reach: float | None = None
) -> dict[str, Any]:
    """The median over tasks of (median over seeds of one) / (median over seeds of the other).

    The interval is a bootstrap of two levels: tasks are drawn, and in each its seeds.
    """
    found = [one for one in found if over(one) is not None and under(one) is not None]
    tasks = sorted({one.task for one in found})
    pairs = [
        np.array([(over(one), under(one)) for one in found if one.task == task]) for task in tasks
    ]

    def ratio(of_task: np.ndarray) -> float:
        above, below = np.median(of_task, axis=0)
        return float(above / below)

    generator = np.random.default_rng(0)
    draws = [
        np.median(
            [
                ratio(pairs[task][generator.integers(len(pairs[task]), size=len(pairs[task]))])
                for task in generator.integers(len(pairs), size=len(pairs))
            ]
        )
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    median = float(np.median([ratio(of_task) for of_task in pairs]))
    return {
        "name": name,
        "tasks": len(tasks),
        "runs": len(found),
        "median": median,
        "low": low,
        "high": high,
        "reach": reach,
    }


def _iterations(start: str) -> Figure:
    """A start that meets the target at once counts as one iteration."""
    return lambda one: max(1, one.runs[start]["iterations"])


def _seconds(start: str) -> Figure:
    return lambda one: one.runs[start]["seconds"]


def _of_task(name: str, found: Sequence[Comparison]) -> dict[str, Any]:
    of_task = [one for one in found if one.task == name]
    starts = of_task[0].runs
    return {
        "task": name,
        "relatives": of_task[0].relatives,
        "target_loss": of_task[0].target,
        "iterations": {
            s: float(np.median([one.runs[s]["iterations"] for one in of_task])) for s in starts
        },
        "seconds": {
            s: _median_of_known([one.runs[s]["seconds"] for one in of_task]) for s in starts
        },
    }


def _median_of_known(seconds: Sequence[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return float(np.median(known)) if known else None
