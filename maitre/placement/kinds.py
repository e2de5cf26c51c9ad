"""Placement over several GPU kinds and base models: the lowest cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.place import Model, capacity_of, place_one_kind, silent
from maitre.placement.plan import PlacementPlan
from maitre.placement.replicas import replicated
from maitre.placement.search import fewest_servers
from maitre.placement.settings import Constraints, PlacementError, PlacementSettings
from maitre.twin import Lengths, ServerProfile

Progress = Callable[[str, int, int], None]

# Parts of the load, hottest or coldest adapters first, that go to one of two kinds.
_CUTS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)


@dataclass(frozen=True)
class GpuKind:
    """A GPU on offer for a base model: its server profile, price, and capacity model if any."""

    profile: ServerProfile
    price_per_hour: float = 1.0
    model: Model | None = None


def place_at_lowest_cost(
    catalogue: AdapterCatalogue,
    kinds: Sequence[GpuKind],
    settings: PlacementSettings,
    *,
    constraints: Constraints | None = None,
    lengths: Lengths | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """One plan for all base models of the catalogue, each on the kinds offered for it.

    Of a base model with several kinds, the adapters are divided between each two of them by rate at
    several points, either way round, and packed; the cheapest division is checked in the twin like
    any plan. The plan's `profile` joins the names; each server names its own, and
    `evidence["price_per_hour"]` is the plan's. Its baselines and bounds are those of one kind
    alone and absent where kinds are mixed.

    Raises:
        CatalogueError, PlacementError: as `maitre.placement.place`; a base model without a kind;
            several kinds together with a limit on GPUs.
    """
    constraints, lengths = constraints or Constraints(), lengths or default_lengths()
    report = on_progress or silent
    models = sorted(set(catalogue.base_models.tolist()))
    catalogue.check(
        base_models={kind.profile.base_model for kind in kinds},
        max_rank=max(kind.profile.valid.max_lora_rank[1] for kind in kinds),
    )
    constraints.check(catalogue)
    if settings.gpus is not None and len(kinds) > 1:
        raise PlacementError("a limit on GPUs is for one GPU kind and base model at a time")
    plans: list[tuple[GpuKind, PlacementPlan]] = []
    for base_model in models:
        of_model = np.flatnonzero(catalogue.base_models == base_model)
        mine = [kind for kind in kinds if kind.profile.base_model == base_model]
        divided = _divided(catalogue.take(of_model), mine, settings, lengths)
        for kind, some in divided:
            names = set(some.names.tolist())
            own = Constraints(
                {a: s for a, s in constraints.pins.items() if a in names},
                {a: n for a, n in constraints.replicas.items() if a in names},
            )
            settings_here = replace(settings, baselines=settings.baselines and len(divided) == 1)
            plan = place_one_kind(
                some, kind.profile, kind.model, settings_here, own, lengths, report
            )
            plans.append((kind, plan))
    return _joined(plans)


def _divided(
    catalogue: AdapterCatalogue,
    kinds: Sequence[GpuKind],
    settings: PlacementSettings,
    lengths: Lengths,
) -> list[tuple[GpuKind, AdapterCatalogue]]:
    """The cheapest division of one base model's adapters between its kinds."""
    order = np.argsort(-catalogue.rates_rps, kind="stable")
    tokens = np.cumsum(catalogue.rates_rps[order])
    best: tuple[float, list[tuple[GpuKind, AdapterCatalogue]]] | None = None
    for hot in kinds:
        for cold in kinds:
            if hot is cold and len(kinds) > 1:
                continue
            for cut in _CUTS if hot is not cold else (1.0,):
                count = int(np.searchsorted(tokens, cut * tokens[-1])) + (cut >= 1.0)
                parts = [
                    (kind, catalogue.take(np.sort(some)))
                    for kind, some in ((hot, order[:count]), (cold, order[count:]))
                    if len(some)
                ]
                cost = _price(parts, settings, lengths)
                if best is None or cost < best[0]:
                    best = cost, parts
    if best is None or not np.isfinite(best[0]):
        raise PlacementError("no GPU kind on offer holds these adapters within the risk")
    return best[1]


def _price(
    parts: Sequence[tuple[GpuKind, AdapterCatalogue]],
    settings: PlacementSettings,
    lengths: Lengths,
) -> float:
    """What packing each part on its kind costs an hour; infinite where it cannot be."""
    total = 0.0
    for kind, some in parts:
        if some.ranks.max() > kind.profile.valid.max_lora_rank[1]:
            return np.inf
        capacity = capacity_of(kind.profile, kind.model, settings, lengths)
        try:
            demand = replicated(some, lengths, capacity, 1 + settings.headroom)
        except CatalogueError:
            return np.inf
        found = fewest_servers(demand, capacity)
        if found is None:
            return np.inf
        total += kind.price_per_hour * found.servers
    return total


def _joined(plans: Sequence[tuple[GpuKind, PlacementPlan]]) -> PlacementPlan:
    """One plan of several; servers of equal names are told apart by their profile's GPU."""
    cost = sum(kind.price_per_hour * plan.gpus for kind, plan in plans)
    if len(plans) == 1:
        [(kind, plan)] = plans
        return replace(plan, evidence={**plan.evidence, "price_per_hour": round(cost, 4)})
    servers = []
    taken: set[str] = set()
    for kind, plan in plans:
        for server in plan.servers:
            name = server.name
            if name in taken:
                name = f"{name}-{kind.profile.name.split('/')[0]}"
            taken.add(name)
            servers.append(replace(server, name=name, profile=kind.profile.name))
    common: Mapping[str, object] = plans[0][1].evidence
    checked = sum(int(plan.evidence.get("servers_checked", 0)) for _, plan in plans)
    alone = len({kind.profile.base_model for kind, _ in plans}) == len(plans)
    return PlacementPlan(
        ", ".join(kind.profile.name for kind, _ in plans),
        tuple(servers),
        sum(plan.lower_bound_gpus for _, plan in plans) if alone else 0,
        {},
        {
            **{name: common[name] for name in ("risk", "headroom", "ttft_slo_ms")},
            "servers_checked": checked,
            "price_per_hour": round(cost, 4),
            "gpus_by_profile": {kind.profile.name: plan.gpus for kind, plan in plans},
        },
    )
