"""Run the twin: one configuration, or many on all cores."""

import logging
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from maitre.progress import Progress
from maitre.twin.arrivals import arrival_chunks
from maitre.twin.errors import require
from maitre.twin.kernel import state as k
from maitre.twin.kernel.advance import advance
from maitre.twin.profile import ServerProfile
from maitre.twin.result import LatencySummary, SimulationResult, bins_quantile, row_quantiles
from maitre.twin.server import ServerConfig
from maitre.twin.workload import Workload

_log = logging.getLogger(__name__)

FIRST_REQUESTS = 4096
TIMELINE_SAMPLES = 360
NO_LIMIT = 1 << 60


def simulate(
    profile: ServerProfile,
    server: ServerConfig,
    workload: Workload,
    seed: int = 0,
    *,
    leap: bool = True,
    trace_rows: int = 0,
    trace_every: int = 1,
) -> SimulationResult:
    """Simulate one server under one workload; the same seed gives the same result.

    `leap=False` takes every engine step by itself (slow; the same result). `trace_rows` > 0 stores
    that many records of what the engine ran, one every `trace_every` events, in `result.trace`.

    Raises:
        TwinInputError: an adapter's rank is above the server's `max_lora_rank`, or the workload
            is for another base model than the profile.
    """
    _check(profile, server, workload)
    inputs, outputs = workload.mean_tokens()
    warnings = tuple(
        profile.range_warnings(
            server, len(workload.adapters), workload.offered_rps, inputs + outputs, outputs
        )
    )
    for warning in warnings:
        _warn_once(profile.name, warning)
    reason = profile.out_of_memory_reason(server)
    block_tokens = profile.memory.block_tokens
    kv_tokens = server.kv_cache_tokens
    if kv_tokens is None:
        kv_tokens = profile.kv_cache_tokens(server.max_loras, server.max_lora_rank) or 0
    blocks = 0 if reason else kv_tokens // block_tokens
    loads = [profile.load_ms(load.rank) for load in workload.adapters]
    sim = k.new_simulation(
        requests=FIRST_REQUESTS,
        total_blocks=blocks,
        block_tokens=block_tokens,
        samples=min(TIMELINE_SAMPLES, max(1, int(workload.duration_s))),
        gpu_load_ms=np.array([gpu for gpu, _ in loads]),
        cpu_load_ms=np.array([cpu for _, cpu in loads]),
        first_scrape_s=_scrape_interval_s(profile, server) or np.inf,
        scrape_s=profile.api.scrape_ms * 1e-3,
        trace_rows=trace_rows,
    )
    limits = _limits(profile, server, workload, blocks, leap, trace_every)
    if reason is None:
        sim = _run(profile.step_cost(server), limits, workload, seed, sim)
    else:
        _offer_only(workload, seed, sim)
    return _result(workload, limits, sim, reason, warnings)


def simulate_many(
    profile: ServerProfile,
    runs: Iterable[tuple[ServerConfig, Workload]],
    seed: int = 0,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    reduce: Callable[[SimulationResult], Any] | None = None,
) -> list[Any]:
    """Simulate many configurations on all cores, run i under seed + i, in the order given.

    Return the results, or what `reduce` (a function that can be pickled) makes of each, which
    keeps memory low over thousands of runs. `progress(done, total)` is called as runs end.
    `workers=1` stays in this process.
    """
    tasks = [
        (profile, server, workload, seed + place, reduce)
        for place, (server, workload) in enumerate(runs)
    ]
    for _, server, workload, _, _ in tasks:
        _check(profile, server, workload)
    count = min(workers or os.cpu_count() or 1, max(len(tasks), 1))
    if count == 1:
        return _collect(map(_simulate_task, tasks), len(tasks), progress)
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        chunk = max(1, min(16, len(tasks) // (count * 8)))
        return _collect(pool.map(_simulate_task, tasks, chunksize=chunk), len(tasks), progress)


def _simulate_task(task: tuple[Any, ...]) -> Any:
    profile, server, workload, seed, reduce = task
    result = simulate(profile, server, workload, seed)
    return result if reduce is None else reduce(result)


def _collect(results: Iterable[Any], total: int, progress: Progress | None) -> list[Any]:
    collected = []
    for result in results:
        collected.append(result)
        if progress is not None:
            progress(len(collected), total)
    return collected


def _check(profile: ServerProfile, server: ServerConfig, workload: Workload) -> None:
    require(
        workload.base_model in (None, profile.base_model),
        f"base_model: the workload is for {workload.base_model!r}, "
        f"the profile {profile.name!r} for {profile.base_model!r}",
    )
    for load in workload.adapters:
        require(
            load.rank <= server.max_lora_rank,
            f"adapters[{load.adapter!r}].rank: {load.rank} is above the server's "
            f"max_lora_rank {server.max_lora_rank}",
        )


@lru_cache(maxsize=1024)
def _warn_once(profile: str, warning: str) -> None:
    """Log a warning once, not for each of thousands of runs; every result carries it."""
    _log.warning("%s: %s", profile, warning)


def _scrape_interval_s(profile: ServerProfile, server: ServerConfig) -> float:
    if server.metrics_scrape_s is None:
        return profile.api.scrape_interval_s
    return float(server.metrics_scrape_s)


def _limits(
    profile: ServerProfile,
    server: ServerConfig,
    workload: Workload,
    blocks: int,
    leap: bool,
    trace_every: int = 1,
) -> k.Limits:
    samples = min(TIMELINE_SAMPLES, max(1, int(workload.duration_s)))
    return k.Limits(
        duration_s=float(workload.duration_s),
        max_num_seqs=int(server.max_num_seqs),
        max_num_batched_tokens=int(server.max_num_batched_tokens),
        max_loras=int(server.max_loras),
        max_cpu_loras=int(server.max_cpu_loras),
        block_tokens=int(profile.memory.block_tokens),
        total_blocks=int(blocks),
        max_model_len=int(server.max_model_len or profile.memory.max_model_len),
        max_in_flight=NO_LIMIT if workload.max_in_flight is None else int(workload.max_in_flight),
        leap=bool(leap),
        sample_s=workload.duration_s / samples,
        ingress_s=profile.api.ingress_ms * 1e-3,
        first_use_s=profile.api.first_use_ms * 1e-3,
        transit_s=profile.api.transit_ms * 1e-3,
        egress_s=profile.api.egress_ms * 1e-3,
        egress_per_sequence_s=profile.api.egress_per_sequence_ms * 1e-3,
        scrape_interval_s=_scrape_interval_s(profile, server),
        series_s=profile.api.scrape_per_series_ms * 1e-3,
        series_name_s=profile.api.scrape_per_name_ms * 1e-3,
        trace_every=trace_every,
    )


def _run(
    cost: k.StepCost, limits: k.Limits, workload: Workload, seed: int, sim: k.Simulation
) -> k.Simulation:
    chunks = arrival_chunks(workload, seed)
    chunk = next(chunks)
    while True:
        code = advance(cost, limits, chunk, sim)
        if code == k.FINISHED:
            return sim
        if code == k.NEEDS_REQUESTS:
            sim = k.with_more_requests(sim)
        else:
            chunk = next(chunks)
            sim.server["next_arrival"] = 0


def _offer_only(workload: Workload, seed: int, sim: k.Simulation) -> None:
    """Count what is offered to a server that never started."""
    for chunk in arrival_chunks(workload, seed):
        tokens = chunk.input_tokens.astype(np.int64) + chunk.output_tokens
        sim.server["offered"] += len(tokens)
        sim.server["offered_tokens"] += tokens.sum()
        count = len(workload.adapters)
        sim.adapters["offered"][:count] += np.bincount(chunk.adapter, minlength=count)
        sim.adapters["tokens_offered"][:count] += np.bincount(
            chunk.adapter, weights=tokens, minlength=count
        ).astype(np.int64)


def _result(
    workload: Workload,
    limits: k.Limits,
    sim: k.Simulation,
    reason: str | None,
    warnings: tuple[str, ...],
) -> SimulationResult:
    server, duration_s = sim.server[0], float(workload.duration_s)
    completed, gaps = int(server["completed"]), int(server["itl_gaps"])
    blocks = max(limits.total_blocks, 1)
    # The share of gaps between tokens that the client saw as gaps between chunks.
    kept = 1.0 - float(server["merged_gaps"]) / max(int(server["decoded_tokens"]), 1)
    adapters = sim.adapters[: len(workload.adapters)].copy()
    return SimulationResult(
        duration_s=duration_s,
        out_of_memory=reason is not None,
        out_of_memory_reason=reason,
        kv_cache_tokens=limits.total_blocks * limits.block_tokens,
        offered=int(server["offered"]),
        completed=completed,
        lost=int(server["lost"]),
        unservable=int(server["unservable"]),
        throughput_tps=float(server["input_done"] + server["output_done"]) / duration_s,
        offered_tps=float(server["offered_tokens"]) / duration_s,
        input_tps=float(server["input_done"]) / duration_s,
        output_tps=float(server["output_done"]) / duration_s,
        preemptions=int(server["preemptions"]),
        ttft_ms=LatencySummary(
            1e3 * float(server["ttft_sum_s"]) / completed if completed else math.nan,
            bins_quantile(sim.ttft_bins, 0.5),
            bins_quantile(sim.ttft_bins, 0.99),
        ),
        itl_ms=LatencySummary(
            1e3 * float(server["itl_sum_s"]) / (gaps * kept) if gaps else math.nan,
            bins_quantile(sim.itl_bins, 0.5),
            bins_quantile(sim.itl_bins, 0.99),
        ),
        running_mean=float(server["running_area"]) / duration_s,
        running_max=int(server["max_running"]),
        waiting_mean=float(server["waiting_area"] + server["waiting"] * server["now_s"])
        / duration_s,
        waiting_max=int(server["max_waiting"]),
        active_adapters_mean=float(server["active_area"]) / duration_s,
        active_adapters_max=int(server["max_active"]),
        kv_usage_mean=float(server["kv_area"]) / duration_s / blocks,
        kv_usage_max=1.0 - float(server["min_free_blocks"]) / blocks,
        adapter_loads=int(server["gpu_loads"]),
        adapter_loads_from_disk=int(server["cpu_loads"]),
        steps=int(server["steps"]),
        events=int(server["events"]),
        in_flight_end=int(
            server["offered"] - server["completed"] - server["lost"] - server["unservable"]
        ),
        metric_series=float(server["series"]),
        scrape_s=float(server["scrape_s"]),
        chunk_gap_share=kept,
        trace=sim.trace,
        warnings=warnings,
        _timeline=structured_to_unstructured(sim.timeline, dtype=np.float32),
        _by_adapter={
            "names": [load.adapter for load in workload.adapters],
            "ranks": np.array([load.rank for load in workload.adapters]),
            "rates": np.array([load.rate_rps for load in workload.adapters]),
            "offered": adapters["offered"],
            "completed": adapters["completed"],
            "tokens_offered": adapters["tokens_offered"],
            "tokens_done": adapters["tokens_done"],
            "ttft_sum_s": adapters["ttft_sum_s"],
            "latency_sum_s": adapters["latency_sum_s"],
            "ttft_p50_ms": row_quantiles(sim.adapter_bins, 0.5),
            "ttft_p99_ms": row_quantiles(sim.adapter_bins, 0.99),
            "total_blocks": limits.total_blocks,
        },
    )
