"""The catalogue as parts to place: adapters hotter than one server divided into replicas."""

from __future__ import annotations

import numpy as np

from maitre.placement.capacity import Capacity
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.chain_packing import Assignment
from maitre.placement.demand import Demand
from maitre.placement.problems import ROWS_SHOWN
from maitre.placement.settings import Constraints
from maitre.twin import Lengths

MAX_REPLICAS = 4096


def as_is(catalogue: AdapterCatalogue, lengths: Lengths, factor: float = 1.0) -> Demand:
    """Return the catalogue as demand: one part per adapter, rates times `factor`."""
    mean_in, mean_out = lengths.means()
    return Demand.of(
        catalogue.rates_rps * factor,
        catalogue.ranks,
        np.where(np.isfinite(catalogue.mean_input_tokens), catalogue.mean_input_tokens, mean_in),
        np.where(np.isfinite(catalogue.mean_output_tokens), catalogue.mean_output_tokens, mean_out),
    )


def replicated(
    catalogue: AdapterCatalogue,
    lengths: Lengths,
    capacity: Capacity,
    factor: float = 1.0,
    constraints: Constraints | None = None,
) -> Demand:
    """Return the catalogue as demand; an adapter above one server becomes equal replicas.

    Raises:
        CatalogueError: an adapter fits no server even as `MAX_REPLICAS` replicas.
    """
    whole = as_is(catalogue, lengths, factor)
    constraints = constraints or Constraints()
    replicas, hopeless = pieces_that_fit(whole, capacity, constraints.least_replicas(catalogue))
    if len(hopeless):
        raise fits_nowhere(catalogue, hopeless)
    return Demand.of(
        whole.rate_rps,
        whole.rank,
        whole.input_tokens,
        whole.output_tokens,
        replicas,
        constraints.pin_numbers(catalogue) if constraints.pins else None,
    )


def pieces_that_fit(
    parts: Demand, capacity: Capacity, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return about the fewest equal pieces of each part that fit servers of their own.

    A part gets at least `least` pieces. Also returns the positions of parts that fit no server
    even as `MAX_REPLICAS` pieces.
    """
    pieces = least.copy()
    todo = np.arange(len(parts))
    while len(todo):
        some = parts.take(todo)
        smaller = Demand.of(
            some.rate_rps / pieces[todo], some.rank, some.input_tokens, some.output_tokens
        )
        fits = capacity.fits(smaller.sums(np.arange(len(todo)), len(todo)))
        todo = todo[~fits]
        hopeless = todo[pieces[todo] >= MAX_REPLICAS]
        if len(hopeless):
            return pieces, hopeless
        pieces[todo] = np.maximum(pieces[todo] + 1, (pieces[todo] * 1.1).astype(np.int64))
    return pieces, todo


def fits_nowhere(catalogue: AdapterCatalogue, adapters: np.ndarray) -> CatalogueError:
    """Return the error for adapters that no server holds, however they are divided."""
    numbers, adapters = catalogue.row_numbers, np.unique(adapters)
    complaints = {
        int(numbers[i]): f"adapter {str(catalogue.names[i])!r} fits no server, not even as "
        f"{MAX_REPLICAS} replicas: rank {catalogue.ranks[i]}, {catalogue.rates_rps[i]:g} requests/s"
        f"{_of_lengths(catalogue, int(i))}; lower its rate, allow a longer time to first token, or "
        "use a profile of a larger GPU"
        for i in adapters[:ROWS_SHOWN]
    }
    return CatalogueError.of_rows(catalogue.source, complaints, len(adapters))


def _of_lengths(catalogue: AdapterCatalogue, i: int) -> str:
    tokens = catalogue.mean_input_tokens[i] + catalogue.mean_output_tokens[i]
    return f" of {tokens:g} tokens each" if np.isfinite(tokens) else ""


def separated(
    found: Assignment, demand: Demand, capacity: Capacity, adapters: np.ndarray
) -> Assignment:
    """Return the assignment with the replicas of each of `adapters` on servers of their own.

    A replica that shares a server with another replica of its adapter changes places with the most
    similar part of another server. Else it joins a server that has room, or gets a new server.
    """
    server = found.server.copy()
    count = found.servers
    for adapter in adapters:
        parts = np.flatnonzero(demand.adapter == adapter)
        for part in parts.tolist():
            others = parts[parts != part]
            if server[part] not in server[others] or demand.is_pinned[part]:
                continue
            partner = _exchangeable_part(part, server, demand, banned=server[parts])
            if partner is not None:
                swapped = server.copy()
                swapped[[part, partner]] = server[[partner, part]]
                both = np.isin(swapped, server[[part, partner]])
                _, place = np.unique(swapped[both], return_inverse=True)
                sets = demand.take(np.flatnonzero(both)).sums(place, 2)
                if capacity.fits(sets).all():
                    server = swapped
                    continue
            target = _with_room(part, server, count, demand, capacity, banned=server[parts])
            server[part] = count if target is None else target
            count += target is None
    return found if np.array_equal(server, found.server) else Assignment.judged(
        server, demand, capacity
    )  # fmt: skip


def _with_room(
    part: int,
    server: np.ndarray,
    count: int,
    demand: Demand,
    capacity: Capacity,
    banned: np.ndarray,
) -> int | None:
    """Return the server that takes the part at the least fill; `None` if no server does."""
    allowed = np.setdiff1d(np.arange(count), banned)
    if not len(allowed):
        return None
    grown = demand.sums(server, count).take(allowed).plus(demand.terms[part], demand.rank[part])
    choice = capacity.best(grown)
    fits = choice.risk <= capacity.risk
    return int(allowed[np.argmin(np.where(fits, choice.fill, np.inf))]) if fits.any() else None


def _exchangeable_part(
    part: int, server: np.ndarray, demand: Demand, banned: np.ndarray
) -> int | None:
    """Return another server's part nearest in rank and rate, of an adapter with one part."""
    single = np.bincount(demand.adapter)[demand.adapter] == 1
    candidates = np.flatnonzero(single & ~np.isin(server, banned) & ~demand.is_pinned)
    if not len(candidates):
        return None
    away = np.abs(np.log((demand.rate_rps[candidates] + 1e-9) / (demand.rate_rps[part] + 1e-9)))
    away += 10.0 * (demand.rank[candidates] != demand.rank[part])
    return int(candidates[np.argmin(away)])
