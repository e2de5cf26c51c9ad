"""Finds an assignment with few servers, then spreads its load evenly over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maitre.placement.capacity import Capacity
from maitre.placement.chain_packing import Assignment, fill_in_order, tier_order
from maitre.placement.demand import Demand
from maitre.placement.level_load import MANY_PARTS, level_load

# Directions in which the rank tiers are walked by rate: the coldest adapters of one tier stand
# beside the hottest (True) or the coldest (False) of the next.
_DIRECTIONS = ((True,), (True, False), (False, True), (False,))
_STEP_BISECTIONS = 10
# The number of servers, the emptiest, that are tried as receivers of a closing server's parts.
_RECEIVERS = 64


def fewest_servers(demand: Demand, capacity: Capacity) -> Assignment | None:
    """Chain the parts in several orders, close servers where others have room, keep the best.

    `None` when some part fits no server alone.
    """
    best: Assignment | None = None
    best_order = None
    for order in orders(demand, capacity):
        found = fill_in_order(demand, order, capacity)
        if found is None:
            return None
        if best is None or _cost(found) < _cost(best):
            best, best_order = found, order
    assert best is not None
    assert best_order is not None
    closed = close_servers(best, demand, capacity)
    if closed.servers < best.servers:
        return closed
    return level_load(best, best_order, demand, capacity)


def orders(demand: Demand, capacity: Capacity) -> Iterator[np.ndarray]:
    """Yield the orders in which parts are worth chaining; of very many parts only the first."""
    tiers = capacity.options.rank_tier(demand.rank)
    for hot_first in _DIRECTIONS if len(demand) <= MANY_PARTS else _DIRECTIONS[:1]:
        yield tier_order(demand, tiers, hot_first)


def shortest_steps(demand: Demand, capacity: Capacity, servers: int) -> Assignment | None:
    """Return the chain on at most `servers` servers whose longest step is shortest: low latency.

    `None` when some part fits no server alone, or all within the risk need more servers.
    """
    order = tier_order(demand, capacity.options.rank_tier(demand.rank), _DIRECTIONS[0])
    best = fewest_servers(demand, capacity)
    if best is None or best.servers > servers:
        return None
    low, high = np.log(1.0), np.log(2_000.0)
    for _ in range(_STEP_BISECTIONS):
        middle = 0.5 * (low + high)
        tried = fill_in_order(demand, order, capacity, max_step_ms=float(np.exp(middle)))
        if tried is not None and tried.servers <= servers:
            best, high = tried, middle
        else:
            low = middle
    return best


def close_servers(found: Assignment, demand: Demand, capacity: Capacity) -> Assignment:
    """Close the emptiest servers as long as the others can take their parts."""
    current = found
    while current.servers > 1:
        pinned = np.isin(np.arange(current.servers), current.server[demand.is_pinned])
        if pinned.all():
            return current
        emptiest = int(np.argmin(np.where(pinned, np.inf, current.fill)))
        moved = _without_server(current, emptiest, demand, capacity)
        if moved is None:
            return current
        current = moved
    return current


def _without_server(
    current: Assignment, closing: int, demand: Demand, capacity: Capacity
) -> Assignment | None:
    """Return the assignment without `closing`, its parts best-fitted elsewhere, or `None`."""
    server = current.server.copy()
    parts = np.flatnonzero(server == closing)
    others = np.flatnonzero(np.arange(current.servers) != closing)
    others = others[np.argsort(current.fill[others], kind="stable")[:_RECEIVERS]]
    if (1.0 - current.fill[others]).sum() < 0.5 * current.fill[closing]:
        return None
    fill = current.fill.copy()
    sets = demand.sums(server, current.servers)
    for part in parts[np.argsort(-demand.rate_rps[parts], kind="stable")]:
        grown = sets.take(others).plus(demand.terms[part], demand.rank[part])
        choice = capacity.best(grown)
        fits = choice.risk <= capacity.risk
        if not fits.any():
            return None
        # Best fit: where the addition costs the least fill.
        cost = np.where(fits, choice.fill - fill[others], np.inf)
        pick = int(np.argmin(cost))
        target = int(others[pick])
        server[part] = target
        sets.sums[target] = grown.sums[pick]
        sets.max_rank[target] = grown.max_rank[pick]
        sets.max_rate_rps[target] = grown.max_rate_rps[pick]
        fill[target] = choice.fill[pick]
    return Assignment.judged(server, demand, capacity)


def _cost(found: Assignment) -> tuple[int, float]:
    """Return the sort key: fewer servers, then the emptiest last one, the easiest to close."""
    return found.servers, float(found.fill.min())
