"""Match the servers of a fresh packing to the running ones, so that few adapters move."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from maitre.placement.capacity import Capacity
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.relocate import Carried

_PINNED = 1e9


def match_servers(
    fresh: Assignment,
    demand: Demand,
    running: Carried,
    capacity: Capacity,
    pinned_to: tuple[int, ...] = (),
) -> Carried:
    """Return the fresh packing on the running servers that hold most of its adapters already.

    The assignment problem gives the matching with the fewest adapters to load; then adapters go
    back to where they run as long as there is room. A running server keeps its configuration where
    its new set is within the risk. `demand` holds the parts of `fresh`; `pinned_to` the running
    servers that the first fresh ones must be matched to. Fresh servers beyond the number of running
    ones are new.
    """
    server, rows, accepted = _match(fresh, demand, running, capacity, pinned_to)
    carried = Carried(demand, server, rows, running.names, accepted, running.held)
    return _with_returned(carried, capacity)


def _match(
    fresh: Assignment,
    demand: Demand,
    running: Carried,
    capacity: Capacity,
    pinned_to: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parts' servers, the servers' configurations, and the risks that they may have."""
    overlap = np.zeros((fresh.servers, running.running))
    np.add.at(overlap, fresh.server, running.held[demand.adapter].astype(float))
    for of_fresh, of_running in enumerate(pinned_to):
        overlap[of_fresh, of_running] += _PINNED
    number = np.full(fresh.servers, -1)
    matched, to = linear_sum_assignment(overlap, maximize=True)
    number[matched] = to
    number[number < 0] = running.running + np.arange(int((number < 0).sum()))
    total = max(running.running, int(number.max()) + 1)
    rows = np.resize(running.rows, total) if running.running else np.zeros(total, dtype=np.int64)
    # Only a risk above the capacity's own is one that the twin has to accept.
    accepted = np.zeros(total)
    accepted[number] = np.where(fresh.risk > capacity.risk, fresh.risk, 0.0)
    sets = demand.sums(fresh.server, fresh.servers)
    runs = number < running.running
    as_configured = capacity.best(sets, np.where(runs, rows[number], fresh.rows)).risk
    keeps = runs & (as_configured <= np.maximum(capacity.risk, fresh.risk))
    rows[number] = np.where(keeps, rows[number], fresh.rows)
    return number[fresh.server], rows, accepted


def _with_returned(carried: Carried, capacity: Capacity) -> Carried:
    """Return the assignment after adapters went back to servers that hold them and have room."""
    demand, server = carried.demand, carried.server.copy()
    limit = np.maximum(carried.accepted_risk, capacity.risk)
    used = np.unique(server)
    sets = demand.sums(server, len(carried.rows))
    single = np.bincount(demand.adapter)[demand.adapter] == 1
    for part in np.flatnonzero(single & ~demand.is_pinned).tolist():
        holds = carried.held[demand.adapter[part]]
        here = int(server[part])
        if not holds.any() or (here < carried.running and holds[here]):
            continue
        homes = np.intersect1d(np.flatnonzero(holds), used)
        if not len(homes):
            continue
        grown = sets.take(homes).plus(demand.terms[part], demand.rank[part])
        choice = capacity.best(grown, carried.rows[homes])
        fits = choice.risk <= limit[homes]
        if not fits.any():
            continue
        pick = int(np.argmin(np.where(fits, choice.fill, np.inf)))
        home = int(homes[pick])
        server[part] = home
        sets.sums[home] = grown.sums[pick]
        sets.max_rank[home] = grown.max_rank[pick]
        sets.max_rate_rps[home] = grown.max_rate_rps[pick]
        sets.sums[here] -= demand.terms[part]
    return Carried(demand, server, carried.rows, carried.names, carried.accepted_risk, carried.held)
