"""Takes load off servers that failed in the twin."""

from __future__ import annotations

import numpy as np

from maitre.maxpack.features import SetSums
from maitre.placement.capacity import Capacity
from maitre.placement.chain import Assignment
from maitre.placement.demand import Demand

# Servers that are asked whether they take a part; the emptiest of them do.
_RECEIVERS = 64


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
    sums = demand.sums(server, count)
    open_to = np.ones(count, dtype=bool)
    open_to[failed] = False
    for i in failed:
        for moved in _given_up(np.flatnonzero(server == i), demand, part):
            term, rank = demand.terms[moved], demand.rank[moved]
            # Replicas of one adapter keep servers of their own.
            allowed = open_to.copy()
            allowed[server[demand.adapter == demand.adapter[moved]]] = False
            candidates = np.flatnonzero(allowed)
            target = _emptiest(sums, candidates, term, rank, capacity)
            if target is None:
                target, count = count, count + 1
                open_to = np.append(open_to, True)
                sums = SetSums(
                    np.vstack([sums.sums, np.zeros((1, sums.sums.shape[1]))]),
                    np.append(sums.max_rank, 0),
                    np.append(sums.max_rate_rps, 0.0),
                )
            server[moved] = target
            grown = sums.take(np.array([target])).plus(term, rank)
            sums.sums[target] = grown.sums[0]
            sums.max_rank[target] = grown.max_rank[0]
            sums.max_rate_rps[target] = grown.max_rate_rps[0]
    return Assignment.judged(server, demand, capacity)


def _emptiest(
    sums: SetSums, candidates: np.ndarray, term: np.ndarray, rank: np.ndarray, capacity: Capacity
) -> int | None:
    """The candidate left emptiest by the part, of those that it fits: it must not fail next."""
    if not len(candidates):
        return None
    load = sums.column("output_tps")[candidates]
    some = candidates[np.argsort(load, kind="stable")[:_RECEIVERS]]
    choice = capacity.best(sums.take(some).plus(term, rank))
    fits = choice.risk <= capacity.risk
    if not fits.any():
        return None
    return int(some[np.argmin(np.where(fits, choice.fill, np.inf))])


def _given_up(parts: np.ndarray, demand: Demand, part: float) -> np.ndarray:
    """The parts of adapters that a server gives up: together about `part` of its rate."""
    parts = parts[~demand.is_pinned[parts]]
    if len(parts) <= 1:
        return parts[:0]
    rates = demand.rate_rps[parts]
    # Middling parts: the coldest relieve nothing, the hottest are hard to house.
    order = np.argsort(np.abs(np.log(np.maximum(rates, 1e-9)) - np.log(rates.mean() + 1e-9)))
    total = np.cumsum(rates[order])
    enough = int(np.searchsorted(total, part * rates.sum())) + 1
    return parts[order[: min(enough, len(parts) - 1)]]
