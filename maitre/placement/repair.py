"""Takes load off servers that failed in the twin."""

from __future__ import annotations

import numpy as np

from maitre.placement.capacity import Capacity
from maitre.placement.chain import Assignment
from maitre.placement.demand import Demand

_RELIEF = 0.04


def relieve(
    found: Assignment, failed: np.ndarray, demand: Demand, capacity: Capacity
) -> Assignment:
    """Move parts off the failed servers: to others with room, else to a new server.

    Each gives up about `_RELIEF` of its load, its hottest parts last: moving cold adapters frees
    batch time and slots at the least traffic moved. Servers that failed receive nothing.
    """
    server = found.server.copy()
    count = found.servers
    sets = demand.sums(server, count)
    fill = found.fill.copy()
    open_to = np.ones(count, dtype=bool)
    open_to[failed] = False
    for i in failed:
        for part in _given_up(np.flatnonzero(server == i), demand):
            candidates = np.flatnonzero(open_to)
            grown = sets.take(candidates).plus(demand.terms[part], demand.rank[part])
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
            server[part] = target
            sets = demand.sums(server, count)
    return Assignment.judged(server, demand, capacity)


def _given_up(parts: np.ndarray, demand: Demand) -> np.ndarray:
    """The parts that a server gives up: about `_RELIEF` of its active adapters and its rate."""
    if len(parts) == 1:
        return parts[:0]
    rates = demand.rate_rps[parts]
    # Middling parts: the coldest relieve nothing, the hottest are hard to house.
    order = np.argsort(np.abs(np.log(np.maximum(rates, 1e-9)) - np.log(rates.mean() + 1e-9)))
    total = np.cumsum(rates[order])
    enough = int(np.searchsorted(total, _RELIEF * rates.sum())) + 1
    return parts[order[: min(enough, len(parts) - 1)]]
