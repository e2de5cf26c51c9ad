"""What differs between two placement plans: servers opened and closed, adapters moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maitre.placement.planned_server import PlannedServer
from maitre.placement.steps import Step, ordered_steps
from maitre.twin.limits import VllmLimits

_SAME_SHARE = 1e-6


@dataclass(frozen=True)
class AdapterMove:
    """An adapter whose servers change.

    `before` and `after` map server names to shares; `before` is empty for a new adapter, `after`
    for a removed one.
    """

    adapter: str
    before: dict[str, float]
    after: dict[str, float]

    @property
    def servers_change(self) -> bool:
        """Whether it must be loaded somewhere new (else only its shares change)."""
        return bool(set(self.after) - set(self.before))


@dataclass(frozen=True)
class PlanDiff:
    """What changes from one plan to another, sorted by name, and the steps in their order."""

    servers_added: tuple[str, ...]
    servers_removed: tuple[str, ...]
    servers_reconfigured: tuple[str, ...]
    adapters_added: tuple[str, ...]
    adapters_removed: tuple[str, ...]
    moves: tuple[AdapterMove, ...]
    reshared: tuple[AdapterMove, ...]
    gpus_before: int
    gpus_after: int
    steps: tuple[Step, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the plans serve alike."""
        return not (
            self.servers_added
            or self.servers_removed
            or self.servers_reconfigured
            or self.adapters_added
            or self.adapters_removed
            or self.moves
            or self.reshared
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the diff as plain JSON values."""
        return asdict(self)


def compare(before: Sequence[PlannedServer], after: Sequence[PlannedServer]) -> PlanDiff:
    """Return the diff from the servers of one plan to those of another, matched by name.

    `moves` are adapters of both plans that have to be loaded on another server. `reshared` are
    those that only lose a server, or whose shares change.
    """
    old = {server.name: server for server in before}
    new = {server.name: server for server in after}
    placed_old, placed_new = shares_by_adapter(before), shares_by_adapter(after)
    changed = [
        AdapterMove(adapter, placed_old[adapter], placed_new[adapter])
        for adapter in sorted(placed_old.keys() & placed_new.keys())
        if placed_old[adapter] != placed_new[adapter]
    ]
    added = tuple(sorted(new.keys() - old.keys()))
    removed = tuple(sorted(old.keys() - new.keys()))
    reconfigured = tuple(
        name
        for name in sorted(old.keys() & new.keys())
        if (old[name].config, old[name].base_model) != (new[name].config, new[name].base_model)
    )
    return PlanDiff(
        servers_added=added,
        servers_removed=removed,
        servers_reconfigured=reconfigured,
        adapters_added=tuple(sorted(placed_new.keys() - placed_old.keys())),
        adapters_removed=tuple(sorted(placed_old.keys() - placed_new.keys())),
        moves=tuple(move for move in changed if move.servers_change),
        reshared=tuple(move for move in changed if not move.servers_change),
        gpus_before=len(before),
        gpus_after=len(after),
        steps=ordered_steps(placed_old, placed_new, added, reconfigured, removed),
    )


def same_servers(one: Sequence[PlannedServer], other: Sequence[PlannedServer]) -> bool:
    """Return whether two plans have the same servers, with the same shares of the same adapters."""
    first, second = shares_by_adapter(one), shares_by_adapter(other)
    return (
        _start_options(one) == _start_options(other)
        and {a: set(s) for a, s in first.items()} == {a: set(s) for a, s in second.items()}
        and all(
            abs(share - second[adapter][server]) <= _SAME_SHARE
            for adapter, shares in first.items()
            for server, share in shares.items()
        )
    )


def _start_options(servers: Sequence[PlannedServer]) -> dict[str, tuple[str, VllmLimits]]:
    return {server.name: (server.base_model, server.config) for server in servers}


def shares_by_adapter(servers: Sequence[PlannedServer]) -> dict[str, dict[str, float]]:
    """Return, for each adapter, the servers that hold it and their shares."""
    placed: dict[str, dict[str, float]] = {}
    for server in servers:
        for held in server.adapters:
            placed.setdefault(held.adapter, {})[server.name] = held.share
    return placed
