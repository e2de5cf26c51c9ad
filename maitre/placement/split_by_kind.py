"""Divides one base model's adapters between the GPU kinds on offer, by price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.place import Model, capacity_of
from maitre.placement.promise import Promise
from maitre.placement.replicas import MAX_REPLICAS, as_is, fits_nowhere, replicated
from maitre.placement.search import fewest_servers
from maitre.placement.settings import Constraints, PlacementError
from maitre.twin import Lengths, ServerProfile

# Parts of the load, hottest or coldest adapters first, that go to one of two kinds.
_CUTS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)


@dataclass(frozen=True)
class GpuKind:
    """A GPU on offer for a base model: its server profile, price, and capacity model if any."""

    profile: ServerProfile
    price_per_hour: float = 1.0
    model: Model | None = None


def split_by_kind(
    catalogue: AdapterCatalogue,
    kinds: Sequence[GpuKind],
    promise: Promise,
    constraints: Constraints,
    lengths: Lengths,
) -> list[tuple[GpuKind, AdapterCatalogue]]:
    """Return the cheapest division of one base model's adapters between its kinds.

    Adapters pinned to one server stay on one kind.

    Raises:
        CatalogueError: adapters that fit no server of any kind, or pins that no division keeps.
        PlacementError: each fits some kind, and no division puts each where it fits.
    """
    if len(kinds) == 1:
        return [(kinds[0], catalogue)]
    order = np.argsort(-catalogue.rates_rps, kind="stable")
    load = np.cumsum(catalogue.rates_rps[order])
    best: tuple[float, list[tuple[GpuKind, AdapterCatalogue]]] | None = None
    split: list[str] = []
    for hot, cold in permutations(kinds, 2):
        for cut in _CUTS:
            count = len(order) if cut >= 1 else int(np.searchsorted(load, cut * load[-1]))
            parts = [
                (kind, catalogue.take(np.sort(some)))
                for kind, some in ((hot, order[:count]), (cold, order[count:]))
                if len(some)
            ]
            if torn := _torn_servers([pins_of(some, constraints) for _, some in parts]):
                split = torn
                continue
            cost = _price(parts, promise, lengths)
            if np.isfinite(cost) and (best is None or cost < best[0]):
                best = cost, parts
    if best is None:
        raise _no_division(catalogue, kinds, promise, lengths, split)
    return best[1]


def _price(
    parts: Sequence[tuple[GpuKind, AdapterCatalogue]],
    promise: Promise,
    lengths: Lengths,
) -> float:
    """Return the price per hour of packing each part on its kind; infinite where impossible."""
    total = 0.0
    for kind, some in parts:
        if some.ranks.max() > kind.profile.valid.max_lora_rank[1]:
            return np.inf
        capacity = capacity_of(kind.profile, kind.model, promise, lengths)
        try:
            demand = replicated(some, lengths, capacity, promise.rate_factor)
        except CatalogueError:
            # Another kind may hold what this one does not; what none holds is said in the end.
            return np.inf
        found = fewest_servers(demand, capacity)
        if found is None:
            return np.inf
        total += kind.price_per_hour * found.servers
    return total


def _no_division(
    catalogue: AdapterCatalogue,
    kinds: Sequence[GpuKind],
    promise: Promise,
    lengths: Lengths,
    split: Sequence[str],
) -> ValueError:
    """Return why no division works: adapters that fit nowhere, the pins, or neither."""
    left = np.arange(len(catalogue))
    for kind in kinds:
        some = catalogue.take(left)
        capacity = capacity_of(kind.profile, kind.model, promise, lengths)
        parts = as_is(some, lengths, promise.rate_factor / MAX_REPLICAS)
        fits = some.ranks <= kind.profile.valid.max_lora_rank[1]
        fits[fits] = capacity.fits(
            parts.take(np.flatnonzero(fits)).sums(np.arange(fits.sum()), int(fits.sum()))
        )
        left = left[~fits]
        if not len(left):
            break
    if len(left):
        return fits_nowhere(catalogue, left)
    names = ", ".join(kind.profile.name for kind in kinds)
    if split:
        return PlacementError(
            f"no division of the adapters between {names} keeps those that are pinned to "
            f"{', '.join(map(repr, split))} on one GPU kind; pin fewer"
        )
    return PlacementError(
        f"no division of the adapters by rate between {names} holds them within the risk: allow "
        "more risk, or place with one kind at a time to see which adapters it does not hold"
    )


def pins_of(catalogue: AdapterCatalogue, constraints: Constraints) -> dict[str, str]:
    """Return the pins of these adapters."""
    if not constraints.pins:
        return {}
    names = set(catalogue.names.tolist())
    return {a: server for a, server in constraints.pins.items() if a in names}


def _torn_servers(pins: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the servers to which adapters of several groups are pinned."""
    groups = Counter(server for group in pins for server in set(group.values()))
    return sorted(server for server, count in groups.items() if count > 1)
