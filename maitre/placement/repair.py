"""Takes load off servers that failed in the twin."""

from __future__ import annotations

import numpy as np

from maitre.placement.capacity import Capacity
from maitre.placement.chain import Assignment
from maitre.placement.demand import Demand


def relieve(
    found: Assignment,
    failed: np.ndarray,
    demand: Demand,
    capacity: Capacity,
    *,
    part: float = 0.04,
) -> Assignment:
    """Move parts off the failed servers: to others with room, else to a new server.

    Each gives up about `part` of its rate, in adapters of middling rate. Servers that failed
    receive nothing.
    """
    server = found.server.copy()
    count = found.servers
    sets = demand.sums(server, count)
    fill = found.fill.copy()
    open_to = np.ones(count, dtype=bool)
    open_to[failed] = False
    for i in failed:
        for moved in _given_up(np.flatnonzero(server == i), demand, part):
            candidates = np.flatnonzero(open_to)
            grown = sets.take(candidates).plus(demand.terms[moved], demand.rank[moved])
            choice = capacity.best(grown) if len(candidates) else None
            fits = choice.risk <= capacity.risk if choice is not None else np.zeros(0, dtype=bool)
            if choice is not None and fits.any():
                # The emptiest: a receiver must not fail in its turn.
                pick = int(np.argmin(np.where(fits, choice.fill, np.inf)))
                target = int(candidates[pick])
                fill[target] = choice.fill[pick]
            else:
                target, count = count, count + 1
                open_to = np.append(open_to, True)
                fill = np.append(fill, 0.0)
            server[moved] = target
            sets = demand.sums(server, count)
    return Assignment.judged(server, demand, capacity)


def _given_up(parts: np.ndarray, demand: Demand, part: float) -> np.ndarray:
    """The parts of adapters that a server gives up: together about `part` of its rate."""
    if len(parts) == 1:
        return parts[:0]
    rates = demand.rate_rps[parts]
    # Middling parts: the coldest relieve nothing, the hottest are hard to house.
    order = np.argsort(np.abs(np.log(np.maximum(rates, 1e-9)) - np.log(rates.mean() + 1e-9)))
    total = np.cumsum(rates[order])
    enough = int(np.searchsorted(total, part * rates.sum())) + 1
    return parts[order[: min(enough, len(parts) - 1)]]
