"""How a plan is made and checked, and which constraints it must respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from maitre.errors import UserError
from maitre.maxpack.card import ModelCard
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError
from maitre.placement.promise import Promise
from maitre.placement.safe_names import EXPECTED, is_safe_name
from maitre.twin import ServerProfile

# Of a shorter check too much is in flight at its end, and good servers fail it.
SHORTEST_CHECK_S = 300.0


class PlacementError(UserError):
    """No plan keeps the promise; the message names the servers that fail, and why."""


@dataclass(frozen=True)
class PlacementSettings:
    """What the plan promises, and how it is packed and checked.

    `check_duration_s`: simulated seconds of the twin's check at the promised rates, at least
    `SHORTEST_CHECK_S` (0: no check); `check_servers`: how many servers are simulated at most,
    spread over the plan; `baselines`: whether to compute them; `gpus`: use at most this many GPUs
    for the shortest steps, instead of the fewest GPUs.
    """

    promise: Promise = field(default_factory=Promise)
    check_duration_s: float = 3600.0
    check_servers: int = 256
    baselines: bool = True
    gpus: int | None = None
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        checked_s = self.check_duration_s
        if checked_s != 0 and not SHORTEST_CHECK_S <= checked_s < np.inf:
            raise PlacementError(
                f"check_duration_s: expected at least {SHORTEST_CHECK_S:g} simulated seconds, as a "
                f"shorter check says little, or 0 for no check; got {checked_s!r}"
            )
        if self.check_servers < 1:
            raise PlacementError(
                "check_servers: expected at least 1, or a check_duration_s of 0 for no check; "
                f"got {self.check_servers}"
            )
        if self.gpus is not None and self.gpus < 1:
            raise PlacementError(f"gpus: expected at least 1; got {self.gpus}")


def check_card(card: ModelCard, profile: ServerProfile, promise: Promise) -> None:
    """Refuse a capacity model of another profile or objective.

    Raises:
        PlacementError: with what to do.
    """
    if card.profile_fingerprint != profile.fingerprint():
        raise PlacementError(
            f"the capacity model was fitted for {card.profile} ({card.profile_fingerprint}): "
            f"expected {profile.name} ({profile.fingerprint()}); simulate new traces and fit it "
            "again"
        )
    if card.ttft_slo_ms != promise.ttft_slo_ms:
        raise PlacementError(
            f"the capacity model is for a time to first token of {card.ttft_slo_ms:g} ms: "
            f"expected {promise.ttft_slo_ms:g} ms; fit one for it "
            f"(maitre maxpack fit TRACES FOLDER --ttft-slo {promise.ttft_slo_ms:g})"
        )


@dataclass(frozen=True)
class Constraints:
    """Which adapters need a certain server, or several servers.

    `pins` names the server that must hold an adapter; `replicas` the least number of servers that
    must hold it, each with an equal share of its requests.
    """

    pins: Mapping[str, str] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)

    def check(self, catalogue: AdapterCatalogue) -> None:
        """Refuse constraints on adapters that are not in the catalogue, and unsafe server names.

        Raises:
            CatalogueError: naming each.
        """
        known = set(catalogue.names.tolist())
        problems = [
            f"{kind}: adapter {name!r} is in no row"
            for kind, names in (("pin", self.pins), ("replicas", self.replicas))
            for name in names
            if name not in known
        ]
        problems += [
            f"replicas: {count} of adapter {name!r}; at least one is needed"
            for name, count in self.replicas.items()
            if count < 1
        ]
        problems += [
            f"pin: server {server!r} is not a safe name: expected {EXPECTED}"
            for server in self.pinned_servers
            if not is_safe_name(server)
        ]
        if problems:
            raise CatalogueError(catalogue.source, problems)

    @property
    def pinned_servers(self) -> tuple[str, ...]:
        """The servers that adapters are pinned to, sorted."""
        return tuple(sorted(set(self.pins.values())))

    def pin_numbers(self, catalogue: AdapterCatalogue) -> np.ndarray:
        """Return the position of each adapter's server in `pinned_servers`, or -1."""
        number = {name: i for i, name in enumerate(self.pinned_servers)}
        return np.array(
            [number[self.pins[n]] if n in self.pins else -1 for n in catalogue.names],
            dtype=np.int64,
        )

    def least_replicas(self, catalogue: AdapterCatalogue) -> np.ndarray:
        """Return the least number of replicas of each adapter."""
        if not self.replicas:
            return np.ones(len(catalogue), dtype=np.int64)
        return np.array([self.replicas.get(n, 1) for n in catalogue.names], dtype=np.int64)
