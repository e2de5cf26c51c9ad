"""Why an adapter is where it is, and what it would take to need one server fewer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.demand import Demand
from maitre.placement.place import Model, capacity_of
from maitre.placement.plan import PlacementPlan
from maitre.placement.relocate import Carried, carried_over
from maitre.placement.replicas import as_is, replicated
from maitre.placement.search import fewest_servers
from maitre.placement.settings import PlacementError
from maitre.twin import Lengths, ServerProfile

_BISECTIONS = 7
_LEAST_FACTOR = 0.5
_ALTERNATIVES_SHOWN = 5


@dataclass(frozen=True)
class Alternative:
    """Another server: its risk and fill if the adapter joined it, and whether that is allowed."""

    server: str
    risk: float
    fill: float
    allowed: bool
    why_not: str


@dataclass(frozen=True)
class Explanation:
    """Why an adapter is on one of its servers.

    `fill` and `risk` are the server's, `fill_without` what it would be without the adapter;
    `limited_by` what its server runs out of first; `alternatives` the servers on which it would
    take the least room, of `servers_allowed` that may hold it.
    """

    adapter: str
    server: str
    share: float
    rank: int
    rate_rps: float
    server_rank: int
    server_slots: int
    adapters_beside: int
    fill: float
    fill_without: float
    risk: float
    limited_by: str
    servers_allowed: int
    alternatives: tuple[Alternative, ...]

    @property
    def text(self) -> str:
        """The explanation in words."""
        words = (
            f"{self.adapter} (rank {self.rank}, {self.rate_rps:g} requests/s) is on {self.server} "
            f"with {self.adapters_beside} others: {self.server_slots} slots of rank "
            f"{self.server_rank}, {100 * self.fill:.1f} % full (without it "
            f"{100 * self.fill_without:.1f} %), limited by its {self.limited_by}. "
        )
        if self.servers_allowed:
            return words + (
                f"{self.servers_allowed} other servers could hold it within the risk, first "
                f"{self.alternatives[0].server}."
            )
        return words + "No other server could hold it within the risk."

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values."""
        return {**asdict(self), "text": self.text}


@dataclass(frozen=True)
class OneFewer:
    """What it takes to need one server less: all rates at most `rate_factor` times the catalogue's.

    `rate_factor` is 0 when even half these rates need as many servers.
    """

    servers: int
    rate_factor: float

    @property
    def text(self) -> str:
        """The same in words."""
        if self.servers <= 1:
            return "One server is the least."
        if not self.rate_factor:
            return f"{self.servers - 1} servers would not do at half of the rates."
        if self.rate_factor >= 1:
            return f"{self.servers - 1} servers would do by the capacity model."
        return (
            f"{self.servers - 1} servers would do if all rates fell by "
            f"{100 * (1 - self.rate_factor):.1f} %."
        )


def explain_adapter(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    adapter: str,
    *,
    model: Model | None = None,
    lengths: Lengths | None = None,
) -> tuple[Explanation, ...]:
    """Return one explanation per server that holds the adapter, at the rates of the plan's promise.

    Raises:
        PlacementError: the plan does not hold the adapter.
    """
    lengths = lengths or default_lengths()
    capacity = capacity_of(profile, model, plan.promise, lengths)
    held = plan.servers_of().get(adapter)
    if held is None:
        raise PlacementError(f"the plan does not hold adapter {adapter!r}")
    whole = as_is(catalogue, lengths, plan.promise.rate_factor)
    carried = carried_over(plan.servers, catalogue.names, whole, capacity)
    number = {name: i for i, name in enumerate(carried.names)}
    position = {str(name): i for i, name in enumerate(catalogue.names)}[adapter]
    return tuple(
        _explanation(plan, carried, capacity, adapter, position, number[name])
        for name in sorted(held)
    )


def one_fewer(
    plan: PlacementPlan,
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    *,
    model: Model | None = None,
    lengths: Lengths | None = None,
) -> OneFewer:
    """Return by how much all rates must fall for the plan to need one server less."""
    lengths = lengths or default_lengths()
    capacity = capacity_of(profile, model, plan.promise, lengths)

    def servers_at(factor: float) -> int:
        demand = replicated(catalogue, lengths, capacity, factor * plan.promise.rate_factor)
        found = fewest_servers(demand, capacity)
        return found.servers if found else plan.gpus

    wanted = plan.gpus - 1
    if wanted < 1 or servers_at(_LEAST_FACTOR) > wanted:
        return OneFewer(plan.gpus, 0.0)
    if servers_at(1.0) <= wanted:
        return OneFewer(plan.gpus, 1.0)
    low, high = _LEAST_FACTOR, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if servers_at(middle) <= wanted else (low, middle)
    return OneFewer(plan.gpus, round(low, 4))


def _explanation(
    plan: PlacementPlan,
    carried: Carried,
    capacity: Capacity,
    adapter: str,
    position: int,
    server: int,
) -> Explanation:
    demand: Demand = carried.demand
    [part] = np.flatnonzero((demand.adapter == position) & (carried.server == server))
    sets = demand.sums(carried.server, len(carried.names))
    here = capacity.best(sets, carried.rows)
    less = demand.sums(np.where(np.arange(len(demand)) == part, len(carried.names), carried.server),
                       len(carried.names) + 1).take(np.array([server]))  # fmt: skip
    without = capacity.best(less, carried.rows[[server]])
    grown = sets.plus(demand.terms[part], demand.rank[part])
    there = capacity.best(grown, carried.rows)
    planned = plan.servers[server]
    ranks = capacity.options.max_lora_rank[carried.rows]
    holders = set(carried.server[demand.adapter == position].tolist())
    others = []
    for i, name in enumerate(carried.names):
        if i == server:
            continue
        why = ""
        if i in holders:
            why = "holds a replica of it already"
        elif ranks[i] < demand.rank[part]:
            why = f"is sized for rank {ranks[i]}"
        elif grown.column("adapters")[i] > capacity.max_adapters:
            why = "holds as many adapters as the profile covers"
        elif there.risk[i] > capacity.risk:
            why = f"its risk would be {there.risk[i]:.3g}"
        added = float(there.fill[i] - here.fill[i])
        others.append(
            (added, Alternative(name, float(there.risk[i]), float(there.fill[i]), not why, why))
        )
    others.sort(key=lambda entry: (not entry[1].allowed, entry[0]))
    return Explanation(
        adapter=adapter,
        server=planned.name,
        share=float(demand.share[part]),
        rank=int(demand.rank[part]),
        rate_rps=round(float(demand.rate_rps[part]), 6),
        server_rank=planned.config.max_lora_rank,
        server_slots=planned.config.max_loras,
        adapters_beside=len(planned.adapters) - 1,
        fill=round(float(here.fill[server]), 4),
        fill_without=round(float(without.fill[0]), 4),
        risk=round(float(here.risk[server]), 5),
        limited_by=planned.predicted.limited_by if planned.predicted else "step time",
        servers_allowed=sum(alternative.allowed for _, alternative in others),
        alternatives=tuple(alternative for _, alternative in others[:_ALTERNATIVES_SHOWN]),
    )
