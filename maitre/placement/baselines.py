"""What simpler methods need: for each, the fewest GPUs at which it starves nobody.

Each baseline says which adapter goes where on a given number of servers and how those servers
are configured; the number is the least at which every server is healthy by the same capacity
model and risk as the plan's (not by the twin: thousands of trial plans would take hours). Adapters
that no single server can carry come to the baselines already divided, which flatters them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial

import numpy as np

from maitre.maxpack.compiled import compiled
from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.demand import Demand
from maitre.placement.packing import deal

Assign = Callable[[Demand, int, np.random.Generator], np.ndarray]


def baseline_gpus(
    demand: Demand, capacity: Capacity, *, seed: int = 0, limit: int | None = None
) -> dict[str, int]:
    """Return the GPUs by method, without methods that starve someone on `limit` servers.

    - `round_robin`: adapters in catalogue order, server after server.
    - `random`: each adapter on a random server.
    - `least_loaded`: in catalogue order, each to the server with the least rate (dLoRA's greedy).
    - `best_fit_by_rate`: by falling rate, each to the fullest server that stays within a rate
      limit; the limit is lowered until nobody starves.
    - `max_base`: as many adapters as the base model's throughput alone would carry, in catalogue
      order; the throughput counted on is lowered until nobody starves.
    - `one_size_fits_all`: least loaded by rate, largest first, all servers with one configuration:
      the best single one.

    Except for the last, a server has a slot for every adapter it holds (as many as fit the
    GPU) and the largest rank among them.
    """
    limit = limit or 4 * len(demand)
    counts = {
        "round_robin": _fewest(demand, capacity, _round_robin, limit, seed),
        "random": _fewest(demand, capacity, _random, limit, seed),
        "least_loaded": _fewest(demand, capacity, _least_loaded, limit, seed),
        "best_fit_by_rate": _fewest(
            demand, capacity, partial(_best_fit, most=capacity.max_adapters), limit, seed
        ),
        "max_base": _fewest(demand, capacity, _in_turn, limit, seed),
        "one_size_fits_all": _one_size(demand, capacity, limit),
    }
    return {name: count for name, count in counts.items() if count is not None}


def slot_per_adapter(sets: SetSums, capacity: Capacity) -> np.ndarray:
    """Return the configuration that an operator would choose: a slot per adapter, if they fit."""
    options = capacity.options
    tier = options.rank_tier(sets.max_rank)
    slots = options.enough_slots(sets.column("adapters"))
    allowed = (options.max_lora_rank == tier[:, None]) & (options.max_loras <= slots[:, None])
    return np.argmax(np.where(allowed, options.max_loras, -1), axis=1)


def _fewest(
    demand: Demand, capacity: Capacity, assign: Assign, limit: int, seed: int
) -> int | None:
    def healthy(servers: int) -> bool:
        server = assign(demand, servers, np.random.default_rng([seed, servers]))
        sets = _sets(demand, server)
        choice = capacity.best(sets, slot_per_adapter(sets, capacity))
        return bool(np.all(choice.risk <= capacity.risk)) and _few_enough(sets, capacity)

    return _least_servers(healthy, limit)


def _one_size(demand: Demand, capacity: Capacity, limit: int) -> int | None:
    largest = capacity.options.rank_tier(np.array([demand.rank.max()]))[0]
    rows = np.flatnonzero(capacity.options.max_lora_rank == largest)

    def healthy(servers: int) -> bool:
        sets = _sets(demand, deal(demand.rate_rps, demand.adapter, servers))
        if not _few_enough(sets, capacity):
            return False
        for row in rows:
            choice = capacity.best(sets, np.full(len(sets), row))
            if np.all(choice.risk <= capacity.risk):
                return True
        return False

    return _least_servers(healthy, limit)


def _least_servers(healthy: Callable[[int], bool], limit: int) -> int | None:
    """Return the fewest servers that are healthy; presume that more servers are never worse."""
    high = 1
    while not healthy(high):
        if high >= limit:
            return None
        high = min(2 * high, limit)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if healthy(middle):
            high = middle
        else:
            low = middle
    return high


def _sets(demand: Demand, server: np.ndarray) -> SetSums:
    _, place = np.unique(server, return_inverse=True)
    return demand.sums(place, int(place.max()) + 1)


def _few_enough(sets: SetSums, capacity: Capacity) -> bool:
    return bool(np.all(sets.column("adapters") <= capacity.max_adapters))


def _round_robin(demand: Demand, servers: int, _: np.random.Generator) -> np.ndarray:
    return np.arange(len(demand)) % servers


def _random(demand: Demand, servers: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(servers, size=len(demand))


def _least_loaded(demand: Demand, servers: int, _: np.random.Generator) -> np.ndarray:
    return np.asarray(_to_the_least_loaded(demand.rate_rps, servers))


@compiled
def _to_the_least_loaded(rates, servers):
    """Place each rate in turn in the least loaded bin; the bins are a binary heap by load."""
    heap = [(0.0, i) for i in range(servers)]
    server = np.empty(len(rates), dtype=np.int64)
    for part in range(len(rates)):
        load, target = heap[0]
        server[part] = target
        heapq.heapreplace(heap, (load + rates[part], target))
    return server


def _best_fit(
    demand: Demand, servers: int, _: np.random.Generator, *, most: int = 1 << 40
) -> np.ndarray:
    """Place rates by best-fit decreasing; the bins are as small as the servers allow.

    A bin takes `most` adapters, if the servers can take all.
    """
    most = max(most, -(-len(demand) // servers))
    order = np.argsort(-demand.rate_rps, kind="stable")
    rates = demand.rate_rps[order]
    size = max(float(rates.sum()) / servers, float(rates.max(initial=0.0)))
    while True:
        server = np.empty(len(demand), dtype=np.int64)
        if _best_fitted(rates, size, servers, most, server):
            placed = np.empty(len(demand), dtype=np.int64)
            placed[order] = server
            return placed
        size *= 1.005


@compiled
def _best_fitted(rates, size, servers, most, server):
    """Place each rate in the fullest bin that takes it; return False when a rate fits no bin.

    Rates fall, so a bin that is too full for one rate may take a later one: all bins are looked at.
    Empty bins are alike, so the first stands for them all.
    """
    room = np.full(servers, size)
    held = np.zeros(servers, dtype=np.int64)
    used = 0
    for i in range(len(rates)):
        target = -1
        for k in range(used):
            fits = room[k] >= rates[i] - 1e-12 and held[k] < most
            if fits and (target < 0 or room[k] < room[target]):
                target = k
        if target < 0:
            if used == servers:
                return False
            target = used
            used += 1
        server[i] = target
        room[target] -= rates[i]
        held[target] += 1
    return True


def _in_turn(demand: Demand, servers: int, _: np.random.Generator) -> np.ndarray:
    """Place in the catalogue's order, a new server per equal part of the token rate."""
    tokens = demand.rate_rps * (demand.input_tokens + demand.output_tokens)
    before = np.cumsum(tokens) - tokens
    part = tokens.sum() / servers
    return np.minimum((before / max(part, 1e-12)).astype(np.int64), servers - 1)
