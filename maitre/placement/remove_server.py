"""Plans on fewer servers than chains find: fuller ones than the model is sure of, too."""

from __future__ import annotations

from dataclasses import replace

from maitre.placement.capacity import Capacity
from maitre.placement.chain_packing import Assignment, fill_in_order
from maitre.placement.demand import Demand
from maitre.placement.level_load import MANY_PARTS, least_risky
from maitre.placement.local_search import balanced
from maitre.placement.search import orders

# A model of some thousand traces cannot be sure of a small risk. A server up to this many times as
# risky, by the model, is worth a simulation.
UNSURE = 10.0
MOST_RISK = 0.3
# The search aims at the number of servers on which each has this part of that risk, at most.
_AIM = 0.5
# Where the local search starts, and what another order must better the best one by.
_CHAIN_RISK = 0.5
_BETTER = 0.8


def judged_by_twin(capacity: Capacity) -> Capacity:
    """Return the capacity with the risk up to which the twin decides instead of the model."""
    return replace(capacity, risk=max(capacity.risk, min(UNSURE * capacity.risk, MOST_RISK)))


def on_fewer_servers(
    found: Assignment, demand: Demand, capacity: Capacity, *, seed: int = 0
) -> Assignment | None:
    """Return the parts on fewer servers than `found` has, at the least risk found for them.

    Each server's risk, by the model, is within the capacity's, or low enough to be worth a
    simulation (`judged_by_twin`). `None` when there is no such assignment.
    """
    if found.servers <= 1 or len(demand) > MANY_PARTS:
        return None
    wide = judged_by_twin(capacity)
    chained = next(orders(demand, capacity))
    aimed = fill_in_order(demand, chained, replace(capacity, risk=_AIM * wide.risk))
    servers = found.servers - 1 if aimed is None else min(aimed.servers, found.servers - 1)
    best: Assignment | None = None
    limit = _CHAIN_RISK
    for order in orders(demand, capacity):
        tried = least_risky(servers, order, demand, replace(capacity, risk=limit))
        if tried is not None:
            best, limit = tried, max(_BETTER * float(tried.risk.max()), capacity.risk)
    if best is None:
        return None
    best = balanced(best, demand, capacity, seed=seed)
    return best if best.risk.max() <= wide.risk else None
