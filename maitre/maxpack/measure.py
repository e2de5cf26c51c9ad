"""Runs servers in the twin, from a warm start, and judges them.

A server reads an adapter, and its tokenizer, when it is first asked for. With a few hundred
adapters that takes a minute or two of its first hour, and one request to each before it gets
traffic (a readiness probe) keeps that away from users. So every adapter is asked for once here, one
after the other, before the load begins; latencies are those of a server in service.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from maitre.maxpack.health import Health, HealthRule, judge
from maitre.twin import ServerConfig, ServerProfile, Workload, simulate
from maitre.twin.arrivals import arrival_chunks
from maitre.twin.workload import Trace

Progress = Callable[[int, int], None]
Run = tuple[ServerConfig, Workload]

# Reading takes the profile's time; half as much again keeps the readings apart.
_READING_FACTOR = 1.5
_SETTLING_S = 1.0
# Fewer simulated seconds than this are over before another process would have started.
_WORTH_A_PROCESS_S = 40 * 3600.0


@dataclass(frozen=True)
class Measurement:
    """What one run found; tokens per second and milliseconds."""

    health: Health
    throughput_tps: float
    offered_tps: float
    itl_mean_ms: float
    itl_p99_ms: float
    kv_usage_max: float
    preemptions: int


def measure_many(
    profile: ServerProfile,
    runs: Sequence[Run],
    seeds: Sequence[int],
    rule: HealthRule,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> list[Measurement]:
    """Measure every run under its seed, on all cores where that pays (`workers=1`: never)."""
    tasks = [
        (profile, config, workload, seed, rule)
        for (config, workload), seed in zip(runs, seeds, strict=True)
    ]
    simulated_s = sum(workload.duration_s for _, workload in runs)
    count = min(workers or os.cpu_count() or 1, max(len(tasks), 1))
    if count == 1 or (workers is None and simulated_s < _WORTH_A_PROCESS_S):
        return _collected(map(_measure, tasks), len(tasks), on_progress)
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        chunk = max(1, min(16, len(tasks) // (count * 8)))
        return _collected(pool.map(_measure, tasks, chunksize=chunk), len(tasks), on_progress)


def warm_started(profile: ServerProfile, workload: Workload, seed: int) -> Workload:
    """The workload's arrivals under this seed, after one short request to each adapter in turn."""
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


def _measure(task: tuple[ServerProfile, ServerConfig, Workload, int, HealthRule]) -> Measurement:
    profile, config, workload, seed, rule = task
    twin_log = logging.getLogger("maitre.twin")
    level = twin_log.level
    # Designs leave the profile's range on purpose; one warning a run would drown all else.
    twin_log.setLevel(logging.ERROR)
    try:
        warm = warm_started(profile, workload, seed)
        result = simulate(profile, config, warm, seed)
    finally:
        twin_log.setLevel(level)
    # Tokens per second of load, without the time in which the adapters were read.
    stretch = warm.duration_s / workload.duration_s
    return Measurement(
        judge(result, rule),
        float(result.throughput_tps) * stretch,
        float(result.offered_tps) * stretch,
        float(result.itl_ms.mean),
        float(result.itl_ms.p99),
        float(result.kv_usage_max),
        int(result.preemptions),
    )


def _collected(
    results: Iterable[Measurement], total: int, on_progress: Progress | None
) -> list[Measurement]:
    collected = []
    for result in results:
        collected.append(result)
        if on_progress is not None:
            on_progress(len(collected), total)
    return collected
