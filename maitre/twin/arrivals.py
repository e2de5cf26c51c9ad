"""Arrivals of a workload, drawn in chunks so that memory does not grow with the duration.

The draws depend on the workload and the seed alone, never on the server: two servers under one
seed see the same requests.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from maitre.twin.kernel.state import Arrivals
from maitre.twin.workload import Workload

CHUNK = 16384
_F8 = NDArray[np.float64]


def arrival_chunks(workload: Workload, seed: int) -> Iterator[Arrivals]:
    """Yield chunks of arrivals in time order, the last one marked; always at least one."""
    if workload.trace is not None:
        yield from _replay(workload)
        return
    rng = np.random.default_rng(_stream(workload, seed))
    windows = max(1, int(np.ceil(workload.offered_rps * workload.duration_s / CHUNK)))
    edges_s = np.linspace(0.0, workload.duration_s, windows + 1)
    times = _SOURCES[workload.burstiness.kind](workload, rng, edges_s)
    scales = _adapter_scales(workload)
    for place, (arrival_s, adapter) in enumerate(times):
        inputs, outputs = workload.lengths.draw(rng, len(arrival_s))
        if scales is not None:
            inputs = np.maximum(np.rint(inputs * scales[0][adapter]), 1)
            outputs = np.maximum(np.rint(outputs * scales[1][adapter]), 1)
        yield Arrivals(
            arrival_s,
            adapter.astype(np.int32),
            inputs.astype(np.int32),
            outputs.astype(np.int32),
            place == windows - 1,
        )


def _stream(workload: Workload, seed: int) -> list[int]:
    """Return the random stream of a seed and of what sets one workload apart from another.

    Otherwise all workloads under one seed would be busier or quieter than their mean together.
    """
    rates = _rates(workload)
    spread = float((rates * np.arange(1, len(rates) + 1)).sum())
    return [seed, len(rates), *np.array([rates.sum(), spread]).view(np.uint32).tolist()]


def _adapter_scales(workload: Workload) -> tuple[_F8, _F8] | None:
    loads = workload.adapters
    if all(load.mean_input_tokens is None and load.mean_output_tokens is None for load in loads):
        return None
    mean_input, mean_output = workload.lengths.means()
    return (
        np.array([(load.mean_input_tokens or mean_input) / mean_input for load in loads]),
        np.array([(load.mean_output_tokens or mean_output) / mean_output for load in loads]),
    )


def _replay(workload: Workload) -> Iterator[Arrivals]:
    trace = workload.trace
    assert trace is not None
    count = int(np.searchsorted(trace.arrival_s, workload.duration_s, side="right"))
    for start in range(0, max(count, 1), CHUNK):
        part = slice(start, min(start + CHUNK, count))
        yield Arrivals(
            np.ascontiguousarray(trace.arrival_s[part], np.float64),
            np.ascontiguousarray(trace.adapter[part], np.int32),
            np.ascontiguousarray(trace.input_tokens[part], np.int32),
            np.ascontiguousarray(trace.output_tokens[part], np.int32),
            start + CHUNK >= count,
        )


def _rates(workload: Workload) -> _F8:
    return np.array([load.rate_rps for load in workload.adapters], np.float64)


def _poisson(
    workload: Workload, rng: np.random.Generator, edges_s: _F8
) -> Iterator[tuple[_F8, NDArray[np.intp]]]:
    """Yield independent Poisson processes: one process, its points dealt to adapters by rate."""
    rates = _rates(workload)
    total = rates.sum()
    cumulative = np.cumsum(rates) / total if total > 0 else np.ones(len(rates))
    for start_s, end_s in pairwise(edges_s):
        count = rng.poisson(total * (end_s - start_s))
        # Order statistics of `count` uniform points, without sorting.
        gaps = rng.standard_exponential(count + 1)
        sums = np.cumsum(gaps)
        arrival_s = start_s + (end_s - start_s) * sums[:-1] / sums[-1]
        adapter = np.searchsorted(cumulative, rng.random(count), side="right")
        yield arrival_s, np.minimum(adapter, len(rates) - 1)


def _merge(
    parts: list[tuple[int, _F8]],
) -> tuple[_F8, NDArray[np.intp]]:
    if not parts:
        return np.zeros(0), np.zeros(0, np.intp)
    arrival_s = np.concatenate([times for _, times in parts])
    adapter = np.concatenate([np.full(len(times), which) for which, times in parts])
    order = np.argsort(arrival_s, kind="stable")
    return arrival_s[order], adapter[order]


def _gamma(
    workload: Workload, rng: np.random.Generator, edges_s: _F8
) -> Iterator[tuple[_F8, NDArray[np.intp]]]:
    """Yield renewal processes with gamma gaps, each started at a random point of a gap."""
    shape = 1.0 / workload.burstiness.cv**2
    rates = _rates(workload)
    live = rates > 0
    scales_s = np.where(live, 1.0 / (np.where(live, rates, 1.0) * shape), 0.0)
    # The gap that covers time zero is length-biased: gamma with shape + 1; a uniform part is left.
    first_s = rng.gamma(shape + 1.0, size=len(rates)) * rng.random(len(rates)) * scales_s
    next_s = np.where(live, first_s, np.inf)
    for end_s in edges_s[1:]:
        parts: list[tuple[int, _F8]] = []
        for which in np.flatnonzero(next_s < end_s):
            found = []
            at_s = next_s[which]
            while at_s < end_s:
                count = int(rates[which] * (end_s - at_s) * 1.2) + 8
                gaps_s = rng.gamma(shape, scales_s[which], size=count)
                times = at_s + np.concatenate([[0.0], np.cumsum(gaps_s)])
                found.append(times[:-1][times[:-1] < end_s])
                beyond = times[times >= end_s]
                at_s = beyond[0] if len(beyond) else times[-1]
            next_s[which] = at_s
            parts.append((int(which), np.concatenate(found)))
        yield _merge(parts)


def _mmpp(
    workload: Workload, rng: np.random.Generator, edges_s: _F8
) -> Iterator[tuple[_F8, NDArray[np.intp]]]:
    """Yield Poisson arrivals; each adapter switches between two rates, in exponential spells."""
    burst = workload.burstiness
    rates = _rates(workload)
    on_rates = rates / (burst.on_share + (1 - burst.on_share) * burst.off_rate_share)
    off_s = burst.on_s * (1 - burst.on_share) / burst.on_share
    is_on = rng.random(len(rates)) < burst.on_share
    switch_s = rng.exponential(np.where(is_on, burst.on_s, max(off_s, 1e-12)))
    for start_s, end_s in pairwise(edges_s):
        parts: list[tuple[int, _F8]] = []
        for which in range(len(rates)):
            at_s = float(start_s)
            while at_s < end_s:
                until_s = min(float(switch_s[which]), float(end_s))
                rate = on_rates[which] * (1.0 if is_on[which] else burst.off_rate_share)
                count = rng.poisson(rate * (until_s - at_s))
                if count:
                    parts.append((which, rng.uniform(at_s, until_s, count)))
                at_s = until_s
                if switch_s[which] <= end_s and off_s > 0:
                    is_on[which] = not is_on[which]
                    switch_s[which] += rng.exponential(burst.on_s if is_on[which] else off_s)
                elif off_s <= 0:
                    switch_s[which] = np.inf
        yield _merge(parts)


_SOURCES = {"poisson": _poisson, "gamma": _gamma, "mmpp": _mmpp}
