"""Assignments of parts to servers, and the moves that pack them."""

from __future__ import annotations

import heapq

import numpy as np

GOLDEN = 0.6180339887498949


def deal(sizes: np.ndarray, adapters: np.ndarray, servers: int) -> np.ndarray:
    """Deal parts over servers, largest first, each to the least filled; return each part's server.

    `sizes` is each part's size, `adapters` its adapter. Two replicas of an adapter never share a
    server while there are servers enough.
    """
    server = np.empty(len(sizes), dtype=np.int64)
    heap = [(0.0, i) for i in range(servers)]
    last: dict[int, set[int]] = {}
    repeated = set(np.flatnonzero(np.bincount(adapters) > 1).tolist()) if len(adapters) else set()
    for part in np.argsort(-sizes, kind="stable"):
        adapter = int(adapters[part])
        held = last.setdefault(adapter, set()) if adapter in repeated else None
        passed = []
        while held and heap and heap[0][1] in held:
            passed.append(heapq.heappop(heap))
        if not heap:
            heap, passed = passed, []
            heapq.heapify(heap)
        load, target = heap[0]
        heapq.heapreplace(heap, (load + float(sizes[part]), target))
        for entry in passed:
            heapq.heappush(heap, entry)
        server[part] = target
        if held is not None:
            held.add(target)
    return server
