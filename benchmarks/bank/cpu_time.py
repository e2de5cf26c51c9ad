"""CPU-seconds of this process, which other processes disturb little."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """Return yields a list that holds the CPU-seconds of the block once it is left."""
    spent: list[float] = []
    started_s = time.process_time()
    yield spent
    spent.append(time.process_time() - started_s)


def median_cpu_seconds(step: Callable[[], None], repeats: int = 3) -> float:
    """Return the median of some calls; one call before them does not count."""
    step()
    times = []
    for _ in range(repeats):
        with cpu_seconds() as spent:
            step()
        times.append(spent[0])
    return float(np.median(times))
