"""Divides adapters of a running plan that have grown hotter than one server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maitre.placement.capacity import Capacity
from maitre.placement.demand import Demand
from maitre.placement.relocate import NEW, Carried, tolerated
from maitre.placement.replicas import pieces_that_fit


def split_hot(
    carried: Carried, whole: Demand, capacity: Capacity, tolerated_risk: float
) -> tuple[Carried, np.ndarray]:
    """Return the running plan; parts that no single server bears are split into equal pieces.

    The first piece stays where the part was; the others are new. A part is divided if its risk on
    a server of its own is above that at which its server is relieved (`tolerated_risk`). It becomes
    about the fewest pieces that are within the capacity's risk. Also returns the positions in the
    catalogue of adapters that fit no server, however divided.
    """
    demand = carried.demand
    alone = demand.sums(np.arange(len(demand)), len(demand))
    limits = np.maximum(carried.accepted_risk, capacity.risk)
    limits = np.append(tolerated(limits, capacity.risk, tolerated_risk), capacity.risk)
    hot = np.flatnonzero(capacity.best(alone).risk > limits[carried.server])
    if not len(hot):
        return carried, hot
    pieces = np.ones(len(demand), dtype=np.int64)
    pieces[hot], hopeless = pieces_that_fit(demand.take(hot), capacity, pieces[hot])
    if len(hopeless):
        return carried, demand.adapter[hot[hopeless]]
    part = np.repeat(np.arange(len(demand)), pieces)
    is_first = np.diff(part, prepend=-1) > 0
    finer = Demand.of_shares(whole, demand.adapter[part], demand.share[part] / pieces[part])
    return replace(
        carried,
        demand=replace(finer, pin=np.where(is_first, demand.pin[part], -1)),
        server=np.where(is_first, carried.server[part], NEW),
    ), hot[:0]
