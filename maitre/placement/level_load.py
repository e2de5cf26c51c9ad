"""Spreads the load of a chain evenly over the same number of servers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit, logit

from maitre.placement.capacity import Capacity
from maitre.placement.chain_packing import Assignment, fill_in_order
from maitre.placement.demand import Demand

_LOWEST_RISK = 1e-4
_RISK_STEPS, _FILL_STEPS = 6, 5
# Above this many parts a chain takes seconds, and what evening gains shrinks with size.
MANY_PARTS = 20_000
_FILL_STEPS_MANY = 3


def level_load(
    found: Assignment, order: np.ndarray, demand: Demand, capacity: Capacity
) -> Assignment:
    """Return the chain on the same number of servers: least common risk first, then least fill.

    A chain leaves its last server with what is left; here every server gets the same slack. Equal
    risk comes first, as servers short of KV cache fail at a lower fill than those short of time.
    """
    if len(demand) > MANY_PARTS:
        return _least_filled(found, order, demand, capacity, _FILL_STEPS_MANY)
    at_least = least_risky(found.servers, order, demand, capacity) or found
    limit = replace(capacity, risk=max(float(at_least.risk.max()), _LOWEST_RISK))
    return _least_filled(at_least, order, demand, limit, _FILL_STEPS)


def least_risky(
    servers: int, order: np.ndarray, demand: Demand, capacity: Capacity
) -> Assignment | None:
    """Return the least risky chain on at most `servers` servers; `None` over capacity."""
    best = None
    low, high = logit(_LOWEST_RISK), logit(capacity.risk)
    tried_at = high
    for _ in range(_RISK_STEPS):
        tried = fill_in_order(demand, order, replace(capacity, risk=float(expit(tried_at))))
        if tried is not None and tried.servers <= servers:
            best, high = tried, min(tried_at, logit(max(float(tried.risk.max()), _LOWEST_RISK)))
        elif best is None:
            return None
        else:
            low = tried_at
        tried_at = 0.5 * (low + high)
        if high <= low:
            break
    return best


def _least_filled(
    found: Assignment, order: np.ndarray, demand: Demand, capacity: Capacity, steps: int
) -> Assignment:
    low, high = 0.5 * float(found.fill.max()), float(found.fill.max())
    best = found
    for _ in range(steps):
        middle = 0.5 * (low + high)
        tried = fill_in_order(demand, order, capacity, max_fill=middle)
        if tried is not None and tried.servers <= found.servers:
            best, high = tried, middle
        else:
            low = middle
    return best
