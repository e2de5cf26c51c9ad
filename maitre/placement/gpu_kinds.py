"""Placement over several GPU kinds and base models: the lowest cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.evidence import Evidence
from maitre.placement.place import place_one_kind
from maitre.placement.plan import PlacementPlan
from maitre.placement.settings import Constraints, PlacementError, PlacementSettings
from maitre.placement.split_by_kind import GpuKind, pins_of, split_by_kind
from maitre.progress import Progress, ignore_progress
from maitre.twin import Lengths

__all__ = ["GpuKind", "place_at_lowest_cost"]


def place_at_lowest_cost(
    catalogue: AdapterCatalogue,
    kinds: Sequence[GpuKind],
    settings: PlacementSettings,
    *,
    constraints: Constraints | None = None,
    lengths: Lengths | None = None,
    on_progress: Progress | None = None,
) -> PlacementPlan:
    """Return one plan for all base models of the catalogue, each on the kinds offered for it.

    Where a base model has several kinds, its adapters are divided between each two kinds: by rate,
    at several points, the hotter adapters on either kind. Each division is packed, and the cheapest
    is checked in the twin like any plan. The plan's `profile` joins the profiles' names; each
    server names its own. `evidence["price_per_hour"]` is the price of the whole plan. A plan of one
    kind has baselines and bounds; a plan of several kinds has none.

    Raises:
        CatalogueError, PlacementError: as `maitre.placement.place`; a base model without a kind;
            several kinds together with a limit on GPUs; adapters of several base models or, as
            far as no division avoids it, GPU kinds pinned to one server.
    """
    constraints, lengths = constraints or Constraints(), lengths or default_lengths()
    report = on_progress or ignore_progress
    models = sorted(set(catalogue.base_models.tolist()))
    catalogue.check(
        base_models={kind.profile.base_model for kind in kinds},
        max_rank=max(kind.profile.valid.max_lora_rank[1] for kind in kinds),
    )
    constraints.check(catalogue)
    _check_pins(catalogue, constraints)
    if settings.gpus is not None and len(kinds) > 1:
        raise PlacementError("a limit on GPUs is for one GPU kind and base model at a time")
    parts: list[_Placed] = []
    for base_model in models:
        of_model = catalogue.take(np.flatnonzero(catalogue.base_models == base_model))
        mine = [kind for kind in kinds if kind.profile.base_model == base_model]
        division = split_by_kind(of_model, mine, settings.promise, constraints, lengths)
        alone = len(models) == len(division) == 1
        for kind, some in division:
            names = set(some.names.tolist())
            own = Constraints(
                pins_of(some, constraints),
                {a: n for a, n in constraints.replicas.items() if a in names},
            )
            settings_here = replace(settings, baselines=settings.baselines and alone)
            plan = place_one_kind(
                some, kind.profile, kind.model, settings_here, own, lengths, report
            )
            parts.append(_Placed(kind, plan, own.pinned_servers))
    return _join_plans(parts)


@dataclass(frozen=True)
class _Placed:
    """The plan of one kind's adapters, and the servers that some of them are pinned to."""

    kind: GpuKind
    plan: PlacementPlan
    pinned: tuple[str, ...]


def _join_plans(parts: Sequence[_Placed]) -> PlacementPlan:
    """Return one plan made of several; the profile's GPU tells equal server names apart.

    Servers that adapters are pinned to keep their names.
    """
    cost = sum(part.kind.price_per_hour * part.plan.gpus for part in parts)
    if len(parts) == 1:
        [part] = parts
        return replace(
            part.plan, evidence=replace(part.plan.evidence, price_per_hour=round(cost, 4))
        )
    servers = []
    taken = {name for part in parts for name in part.pinned}
    for part in parts:
        profile = part.kind.profile.name
        for server in part.plan.servers:
            name = server.name
            if name not in part.pinned:
                name = _unique_name(name, profile.split("/")[0], taken)
                taken.add(name)
            servers.append(replace(server, name=name, profile=profile))
    checked = sum(part.plan.evidence.servers_checked or 0 for part in parts)
    alone = len({part.kind.profile.base_model for part in parts}) == len(parts)
    return PlacementPlan(
        ", ".join(part.kind.profile.name for part in parts),
        tuple(servers),
        sum(part.plan.lower_bound_gpus for part in parts) if alone else 0,
        {},
        Evidence(
            promise=parts[0].plan.evidence.promise,
            servers_checked=checked,
            price_per_hour=round(cost, 4),
            gpus_by_profile={part.kind.profile.name: part.plan.gpus for part in parts},
            warnings=tuple(line for part in parts for line in part.plan.evidence.warnings or ())
            or None,
        ),
    )


def _unique_name(name: str, gpu: str, taken: Collection[str]) -> str:
    """Return the name; while it is taken, append the GPU, then a number."""
    if name not in taken:
        return name
    found, number = f"{name}-{gpu}", 2
    while found in taken:
        found, number = f"{name}-{gpu}-{number}", number + 1
    return found


def _check_pins(catalogue: AdapterCatalogue, constraints: Constraints) -> None:
    """Refuse to pin adapters of several base models to one server.

    Raises:
        CatalogueError: naming each such server and its adapters.
    """
    model_of = dict(zip(catalogue.names.tolist(), catalogue.base_models.tolist(), strict=True))
    problems = []
    for server in constraints.pinned_servers:
        pinned = [adapter for adapter, name in constraints.pins.items() if name == server]
        models = {model_of[adapter] for adapter in pinned}
        if len(models) > 1:
            several = ", ".join(f"{adapter!r} ({model_of[adapter]})" for adapter in pinned)
            problems.append(
                f"pin: server {server!r} is to hold {several}; a server has one base model"
            )
    if problems:
        raise CatalogueError(catalogue.source, problems)
