"""Decide whether the observed traffic calls for a new placement.

The capacity model gives the risk that each server starves at the observed rates. A new placement
is requested when a server's risk has been too high in several samples in a row, and not again
while the requested one is under way: rates vary, and moves have a price.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from maitre import fingerprints
from maitre.errors import UserError
from maitre.placement.diff import same_servers

if TYPE_CHECKING:
    from maitre.maxpack.model import MaxpackModel
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.plan import PlacementPlan
    from maitre.twin import ServerProfile

PRIOR_REQUESTS = 4.0
"""How many requests the catalogue's rate counts for beside those that were seen."""


def expected_rates_rps(
    catalogue: "AdapterCatalogue", requests: Mapping[str, float], span_s: float
) -> np.ndarray:
    """Each adapter's rate (requests/s), from `requests` seen in `span_s` and the catalogue's rate.

    The posterior mean of a Poisson rate under a gamma prior around the catalogue's that weighs
    `PRIOR_REQUESTS`: an adapter that is asked twice a minute is not believed to have stopped
    because a minute brought nothing. One with a catalogue's rate of nought is taken as seen.
    """
    seen = np.array([requests.get(str(name), 0.0) for name in catalogue.names], float)
    told = np.asarray(catalogue.rates_rps, float)
    prior_s = np.divide(PRIOR_REQUESTS, told, out=np.zeros_like(told), where=told > 0)
    prior = np.where(told > 0, PRIOR_REQUESTS, 0.0)
    return (prior + seen) / np.maximum(prior_s + span_s, 1e-9)


def server_risks(
    plan: "PlacementPlan",
    catalogue: "AdapterCatalogue",
    profile: "ServerProfile",
    model: "MaxpackModel | None",
) -> dict[str, float]:
    """Return the probability that each server of the plan is unhealthy at the catalogue's rates.

    A server is unhealthy when it misses the objective that the plan promises. The capacity `model`
    gives the probability; without one, the steady state.

    Raises:
        PlacementError: the model was fitted for another profile or objective.
    """
    from maitre.maxpack.options import default_lengths
    from maitre.placement.place import capacity_of
    from maitre.placement.relocate import carried_over
    from maitre.placement.replicas import as_is

    lengths = default_lengths()
    capacity = capacity_of(profile, model, plan.promise, lengths)
    demand = as_is(catalogue, lengths)
    carried = carried_over(plan, catalogue.names, demand, capacity)
    placed = np.flatnonzero(carried.server >= 0)
    held = carried.server[placed]
    sums = carried.demand.take(placed).sums(held, len(plan.servers))
    risk = capacity.best(sums, carried.rows).risk
    busy = np.isin(np.arange(len(plan.servers)), held)
    return {
        server.name: float(risk[i]) if busy[i] else 0.0 for i, server in enumerate(plan.servers)
    }


@dataclass(frozen=True)
class DriftLimits:
    """When to ask: `looks` in a row with a risk of at least `enter`, and not within `calm_s` of the
    last time. A server is out of it again below `leave`."""

    enter: float = 0.10
    leave: float = 0.05
    looks: int = 3
    calm_s: float = 900.0

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1:
            raise UserError(f"limits: need 0 < leave <= enter <= 1, got {self}")
        if self.looks < 1 or self.calm_s < 0:
            raise UserError(f"limits: looks is at least 1 and calm_s not negative, got {self}")


@dataclass(frozen=True)
class DriftState:
    """What is kept from look to look: for how many each server has been over, when and on which
    plan a re-placement was asked for."""

    over: Mapping[str, int] = field(default_factory=dict)
    asked_at_s: float | None = None
    asked_of_plan: str = ""

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> "DriftState":
        """A watch that `to_dict` made."""
        over, asked = document.get("over") or {}, document.get("asked_at_s")
        assert isinstance(over, Mapping)
        return cls(
            {str(server): int(looks) for server, looks in over.items()},
            None if asked is None else float(str(asked)),
            str(document.get("asked_of_plan") or ""),
        )


def _steady_state(_: float) -> None:
    return None


@dataclass(frozen=True)
class Observed:
    """What is served under which load.

    `served` is the plan in service, without servers where their options are not known; `newest` the
    plan that was made last; `catalogue` the adapters at the observed rates. `starving` names the
    servers whose queue was seen to grow, with the reason. `model_at` gives the capacity model for a
    time to first token (ms); `None`: the steady state decides.
    """

    served: "PlacementPlan"
    newest: "PlacementPlan | None"
    catalogue: "AdapterCatalogue"
    starving: Mapping[str, str]
    profile: "ServerProfile"
    model_at: "Callable[[float], MaxpackModel | None]" = _steady_state

    def risks(self, plan: "PlacementPlan") -> dict[str, float]:
        """Return the risk that each server misses, at the observed rates, its plan's objective."""
        model = self.model_at(plan.promise.ttft_slo_ms)
        return server_risks(plan, self.catalogue, self.profile, model)


@dataclass(frozen=True)
class Verdict:
    """Whether to ask for a re-placement, and why (or why not), in one line."""

    ask: bool
    reason: str
    watch: DriftState


def decide(
    watch: DriftState,
    risks: Mapping[str, float],
    starving: Mapping[str, str],
    plan_version: str,
    now_s: float,
    limits: DriftLimits,
) -> Verdict:
    """One look more. `starving` are servers whose queue was seen to grow, with the reason.

    They count whether or not there is a risk of them: a server that cannot be weighed can starve.
    """
    over = {}
    watched = sorted(risks.keys() | starving.keys())
    for server in watched:
        was, risk = watch.over.get(server, 0), risks.get(server, 0.0)
        if risk >= limits.enter or server in starving or (was and risk >= limits.leave):
            over[server] = was + 1
    kept = DriftState(over, watch.asked_at_s, watch.asked_of_plan)
    worst = max(watched, key=lambda server: (server in over, risks.get(server, 0.0)), default="")
    if not over:
        return Verdict(
            False, f"no server is about to starve; riskiest {_describe(worst, risks)}", kept
        )
    lasting = [server for server, looks in over.items() if looks >= limits.looks]
    if not lasting:
        looks = max(over.values())
        return Verdict(
            False,
            f"{_describe(worst, risks, starving)} for {looks} of {limits.looks} looks in a row",
            kept,
        )
    since_s = None if watch.asked_at_s is None else now_s - watch.asked_at_s
    if since_s is not None and since_s < limits.calm_s:
        same = "" if watch.asked_of_plan != plan_version else ", and the same is served since"
        return Verdict(
            False,
            f"{_describe(worst, risks, starving)}; a re-placement was asked for {since_s:.0f} s ago"
            f"{same}; the next after {limits.calm_s:.0f} s",
            kept,
        )
    names = ", ".join(_describe(server, risks, starving) for server in sorted(lasting))
    return Verdict(True, names, DriftState({}, now_s, plan_version))


def weigh(state: DriftState, observed: Observed, now_s: float, limits: DriftLimits) -> Verdict:
    """Decide from the risks of the served plan at the observed rates.

    Request nothing while the newest plan holds at these rates and only waits to be deployed.

    Raises:
        PlacementError: the model was fitted for another profile or objective.
    """
    served, newest = observed.served, observed.newest
    if not served.servers and not observed.starving:
        return Verdict(False, "the gateway routes to no server of known options", state)
    risks = observed.risks(served) if served.servers else {}
    version = fingerprints.of_bytes(served.to_json().encode())
    verdict = decide(state, risks, observed.starving, version, now_s, limits)
    if not verdict.ask or newest is None:
        return verdict
    if not served.servers or same_servers(served.servers, newest.servers):
        return verdict
    if max(observed.risks(newest).values()) >= limits.enter:
        return verdict
    # The state of before: the next sample requests at once when the newest plan no longer holds.
    waits = f"{verdict.reason}; the newest plan holds at these rates and waits to be deployed"
    return Verdict(False, waits, state)


def _describe(
    server: str, risks: Mapping[str, float], starving: Mapping[str, str] | None = None
) -> str:
    if not server:
        return "none"
    waits = (starving or {}).get(server)
    queue = f", its queue grows for want of {waits}" if waits else ""
    risk = f"{risks[server]:.2f}" if server in risks else "not known"
    return f"{server}: risk {risk}{queue}"
