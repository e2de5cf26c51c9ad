"""Runs servers in the twin, from a warm start, and judges them.

A server reads an adapter, and its tokenizer, when it is first asked for. With a few hundred
adapters that takes a minute or two of its first hour, and one request to each before it gets
traffic (a readiness probe) keeps that away from users. So every adapter is asked for once here, one
after the other, before the load begins; latencies are those of a server in service.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from maitre.maxpack.health import Health, HealthRule, judge
from maitre.progress import Progress
from maitre.twin import ServerConfig, ServerProfile, Workload, simulate
from maitre.twin.arrivals import arrival_chunks
from maitre.twin.workload import Trace

Run = tuple[ServerConfig, Workload]

_TWIN_LOG = logging.getLogger("maitre.twin")

# Reading takes the profile's time; half as much again keeps the readings apart.
_READING_FACTOR = 1.5
_SETTLING_S = 1.0
# The kernel runs outside Python's lock; one thread more than there are cores fills the time in
# which the others prepare arrivals inside it. Beyond a few cores the lock is in the way, and then
# processes pay if there is enough to do.
_THREADS_SCALE_TO = 4
_WORTH_PROCESSES_S = 400 * 3600.0


@dataclass(frozen=True)
class SimulatedHealth:
    """What one run found; tokens per second and milliseconds."""

    health: Health
    throughput_tps: float
    offered_tps: float
    itl_mean_ms: float
    itl_p99_ms: float
    kv_usage_max: float
    preemptions: int


def simulate_health(
    profile: ServerProfile,
    runs: Sequence[Run],
    seeds: Sequence[int],
    rule: HealthRule,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[SimulatedHealth]:
    """Measure every run under its seed, on all cores that this process may use (`workers=1`: one).

    The same seeds give the same measurements however many workers there are.
    """
    tasks = [
        (profile, config, workload, seed, rule)
        for (config, workload), seed in zip(runs, seeds, strict=True)
    ]
    cores = min(workers or _cores(), max(len(tasks), 1))
    if cores == 1:
        with _without_range_warnings():
            return _collect(map(_simulate_one, tasks), len(tasks), on_progress)
    simulated_s = sum(workload.duration_s for _, workload in runs)
    pool: Executor
    if cores > _THREADS_SCALE_TO and simulated_s > _WORTH_PROCESSES_S:
        pool = ProcessPoolExecutor(cores, get_context("spawn"), initializer=_disable_logging)
    else:
        pool = ThreadPoolExecutor(cores + 1)
    with pool, _without_range_warnings():
        chunk = max(1, min(16, len(tasks) // (cores * 8)))
        return _collect(pool.map(_simulate_one, tasks, chunksize=chunk), len(tasks), on_progress)


def warm_started(profile: ServerProfile, workload: Workload, seed: int) -> Workload:
    """Return the workload's arrivals under this seed, after a short request to each adapter."""
    first_use_ms = profile.api.first_use_ms
    read_s = [1e-3 * (first_use_ms + sum(profile.load_ms(load.rank))) for load in workload.adapters]
    first_s = np.cumsum(read_s) * _READING_FACTOR
    delay_s = float(first_s[-1]) + _SETTLING_S
    chunks = list(arrival_chunks(workload, seed))
    adapters = len(workload.adapters)
    once = np.ones(adapters, dtype=np.int32)
    return Workload(
        adapters=workload.adapters,
        lengths=workload.lengths,
        duration_s=workload.duration_s + delay_s,
        max_in_flight=workload.max_in_flight,
        trace=Trace(
            np.concatenate([first_s, *(chunk.arrival_s + delay_s for chunk in chunks)]),
            np.concatenate(
                [np.arange(adapters, dtype=np.int32), *(chunk.adapter for chunk in chunks)]
            ),
            np.concatenate([once, *(chunk.input_tokens for chunk in chunks)]),
            np.concatenate([once, *(chunk.output_tokens for chunk in chunks)]),
        ),
    )


def _cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _without_range_warnings() -> Iterator[None]:
    """Silence warnings of the profile's range, which designs leave on purpose."""
    level = _TWIN_LOG.level
    _disable_logging()
    try:
        yield
    finally:
        _TWIN_LOG.setLevel(level)


def _disable_logging() -> None:
    _TWIN_LOG.setLevel(logging.ERROR)


def _simulate_one(
    task: tuple[ServerProfile, ServerConfig, Workload, int, HealthRule],
) -> SimulatedHealth:
    profile, config, workload, seed, rule = task
    warm = warm_started(profile, workload, seed)
    result = simulate(profile, config, warm, seed)
    # Tokens per second of load, without the time in which the adapters were read.
    stretch = warm.duration_s / workload.duration_s
    return SimulatedHealth(
        judge(result, rule),
        float(result.throughput_tps) * stretch,
        float(result.offered_tps) * stretch,
        float(result.itl_ms.mean),
        float(result.itl_ms.p99),
        float(result.kv_usage_max),
        int(result.preemptions),
    )


def _collect(
    results: Iterable[SimulatedHealth], total: int, on_progress: Progress | None
) -> list[SimulatedHealth]:
    collected = []
    for result in results:
        collected.append(result)
        if on_progress is not None:
            on_progress(len(collected), total)
    return collected
