"""What a plan promises, and what it must respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from maitre.errors import UserError
from maitre.maxpack.card import ModelCard
from maitre.maxpack.health import DEFAULT_TTFT_SLO_MS
from maitre.placement.catalogue import AdapterCatalogue, CatalogueError, is_safe_name
from maitre.twin import ServerProfile

DEFAULT_HEADROOM = 0.05
# Of a shorter check too much is in flight at its end, and good servers fail it.
SHORTEST_CHECK_S = 300.0


class PlacementError(UserError):
    """No plan keeps the promise: the message says which server fails and why."""


@dataclass(frozen=True)
class PlacementSettings:
    """What the plan promises and how hard it is checked.

    At rates `headroom` above the catalogue's every server is healthy (`maitre.maxpack.health`, with
    `ttft_slo_ms`) with a probability of at least 1 - `risk` by the capacity model.
    `check_duration_s`: simulated seconds of the twin's check at those rates, at least
    `SHORTEST_CHECK_S` (0: no check); `check_servers`: how many servers are simulated at most,
    spread over the plan; `baselines`: whether to compute them; `gpus`: instead of few GPUs, the
    shortest steps on at most so many.
    """

    risk: float = 0.01
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    headroom: float = DEFAULT_HEADROOM
    check_duration_s: float = 3600.0
    check_servers: int = 256
    baselines: bool = True
    gpus: int | None = None
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("risk", 0.0, 1.0),
            ("ttft_slo_ms", 0.0, np.inf),
        ):
            value = getattr(self, name)
            if not low < value < high:
                raise PlacementError(f"{name} is {value!r}; it must lie between {low} and {high}")
        if not 0 <= self.headroom < 10:
            raise PlacementError(
                "headroom: expected the part above the catalogue's rates that servers must "
                f"sustain, from 0 to below 10; got {self.headroom!r}"
            )
        checked_s = self.check_duration_s
        if checked_s != 0 and not SHORTEST_CHECK_S <= checked_s < np.inf:
            raise PlacementError(
                f"check_duration_s is {checked_s!r}; give at least {SHORTEST_CHECK_S:g} simulated "
                "seconds, as a shorter check says little, or 0 for no check"
            )
        if self.check_servers < 1:
            raise PlacementError(
                f"check_servers is {self.check_servers}; give at least 1, or a check_duration_s "
                "of 0 for no check"
            )
        if self.gpus is not None and self.gpus < 1:
            raise PlacementError(f"gpus is {self.gpus}; at least one is needed")

    def check_card(self, card: ModelCard, profile: ServerProfile) -> None:
        """Refuse a capacity model of another profile or objective.

        Raises:
            PlacementError: with what to do.
        """
        if card.profile_fingerprint != profile.fingerprint():
            raise PlacementError(
                f"the capacity model was fitted for {card.profile} "
                f"({card.profile_fingerprint}), not for {profile.name} ({profile.fingerprint()}); "
                "simulate new traces and fit it again"
            )
        if card.ttft_slo_ms != self.ttft_slo_ms:
            raise PlacementError(
                f"the capacity model is for a time to first token of {card.ttft_slo_ms:g} ms: "
                f"expected {self.ttft_slo_ms:g} ms; fit one for it "
                f"(maitre maxpack fit TRACES FOLDER --ttft-slo {self.ttft_slo_ms:g})"
            )


@dataclass(frozen=True)
class Constraints:
    """Where adapters must or must not be.

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
            f"pin: server {server!r} is not a safe name: it takes letters, digits, '.', '_' and '-'"
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
        """For each adapter the position of its server in `pinned_servers`, or -1."""
        number = {name: i for i, name in enumerate(self.pinned_servers)}
        return np.array(
            [number[self.pins[n]] if n in self.pins else -1 for n in catalogue.names],
            dtype=np.int64,
        )

    def least_replicas(self, catalogue: AdapterCatalogue) -> np.ndarray:
        """For each adapter the least number of its replicas."""
        if not self.replicas:
            return np.ones(len(catalogue), dtype=np.int64)
        return np.array([self.replicas.get(n, 1) for n in catalogue.names], dtype=np.int64)
