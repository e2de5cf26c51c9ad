"""The figures of the comparisons of starts: medians over tasks with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.bank.starts import Comparison
from benchmarks.report import Figure, Reach, Report

DRAWS = 4000
Measured = Callable[[Comparison], float | None]


def report(found: Sequence[Comparison], max_iterations: int, not_learned: Sequence[str]) -> Report:
    """Return the figures; a run that misses its target counts as `max_iterations` iterations."""
    starts = list(found[0].runs)
    figures = [
        *_ratio(found, "iterations, cold / bank", _iterations("cold"), _iterations("bank"), 3.0),
        *_ratio(found, "iterations, text / bank", _iterations("text"), _iterations("bank"), 1.3),
        *_ratio(found, "seconds, cold / bank with lookup", _seconds("cold"), _seconds("bank"), 2.0),
    ]
    far = "bank without relatives"
    if far in starts:
        figures += [
            *_ratio(found, f"iterations, cold / {far}", _iterations("cold"), _iterations(far)),
            *_ratio(found, f"iterations, text / {far}", _iterations("text"), _iterations(far)),
            *_ratio(found, f"seconds, cold / {far}", _seconds("cold"), _seconds(far)),
        ]
    lookups_s = [one.runs["bank"]["lookup_seconds"] for one in found]
    figures += [
        Figure("held-out tasks", len({one.task for one in found})),
        Figure("runs of each start", len(found)),
        Figure("lookup, median", float(np.median(lookups_s)), "s"),
    ]
    for start in starts:
        runs = [one.runs[start] for one in found]
        iterations = float(np.median([run["iterations"] for run in runs]))
        figures += [
            Figure(f"{start}: runs that reach the target", sum(run["reached"] for run in runs)),
            Figure(f"{start}: iterations, median", iterations),
        ]
    details = {
        "max_iterations": max_iterations,
        "not_learned": list(not_learned),
        "by_task": [_of_task(name, found) for name in sorted({one.task for one in found})],
    }
    return Report(figures, details)


def _ratio(
    found: Sequence[Comparison],
    name: str,
    over: Measured,
    under: Measured,
    reach: float | None = None,
) -> list[Figure]:
    """Return the median over tasks of (median over seeds of one) / (median over seeds of another).

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
    count = f"{len(tasks)} tasks, {len(found)} runs"
    return [
        Figure(f"{name} ({count})", median, "", None if reach is None else Reach(at_least=reach)),
        Figure(f"{name}: 95 % interval", f"{low:.2f} to {high:.2f}"),
    ]


def _iterations(start: str) -> Measured:
    """Return the iterations of a start, at least one: a start may meet the target at once."""
    return lambda one: max(1, one.runs[start]["iterations"])


def _seconds(start: str) -> Measured:
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
