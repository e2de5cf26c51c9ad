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
    """Return each adapter's rate (requests/s), from the `requests` seen in `span_s` seconds.

    The posterior mean of a Poisson rate under a gamma prior around the catalogue's rate that weighs
    `PRIOR_REQUESTS`: a minute without a request does not mean that an adapter with two requests per
    minute has stopped. An adapter with a catalogue's rate of 0 has the rate that was seen.
    """
    seen = np.array([requests.get(str(name), 0.0) for name in catalogue.names], float)
    expected = np.asarray(catalogue.rates_rps, float)
    prior_s = np.divide(PRIOR_REQUESTS, expected, out=np.zeros_like(expected), where=expected > 0)
    prior = np.where(expected > 0, PRIOR_REQUESTS, 0.0)
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
    carried = carried_over(plan.servers, catalogue.names, demand, capacity)
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
    """When to request a new placement.

    A server is over the limit from a risk of `enter` on, until its risk falls below `leave`. A
    placement is requested when a server has been over in `samples` samples in a row, and not within
    `calm_s` of the last request.
    """

    enter: float = 0.10
    leave: float = 0.05
    samples: int = 3
    calm_s: float = 900.0

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1:
            raise UserError(f"limits: need 0 < leave <= enter <= 1, got {self}")
        if self.samples < 1 or self.calm_s < 0:
            raise UserError(
                f"limits: samples must be at least 1 and calm_s not negative, got {self}"
            )


@dataclass(frozen=True)
class DriftState:
    """What is kept between samples.

    `over`: in how many samples in a row each server has been over the limit; `asked_at_s` and
    `asked_of_plan`: when, and for which served plan, a new placement was last requested.
    """

    over: Mapping[str, int] = field(default_factory=dict)
    asked_at_s: float | None = None
    asked_of_plan: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the state as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> "DriftState":
        """Read back what `to_dict` made."""
        over, asked = document.get("over") or {}, document.get("asked_at_s")
        assert isinstance(over, Mapping)
        return cls(
            {str(server): int(samples) for server, samples in over.items()},
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
    """Whether to request a new placement, the reason in one line, and the state to keep."""

    ask: bool
    reason: str
    state: DriftState


def decide(
    state: DriftState,
    risks: Mapping[str, float],
    starving: Mapping[str, str],
    plan_version: str,
    now_s: float,
    limits: DriftLimits,
) -> Verdict:
    """Decide after one more sample.

    `starving` maps servers whose queue was seen to grow to the reason. They count whether or not
    `risks` has them: a server whose risk is unknown can starve, too.
    """
    over = {}
    watched = sorted(risks.keys() | starving.keys())
    for server in watched:
        was, risk = state.over.get(server, 0), risks.get(server, 0.0)
        if risk >= limits.enter or server in starving or (was and risk >= limits.leave):
            over[server] = was + 1
    kept = DriftState(over, state.asked_at_s, state.asked_of_plan)
    worst = max(watched, key=lambda server: (server in over, risks.get(server, 0.0)), default="")
    if not over:
        return Verdict(
            False, f"no server is about to starve; riskiest {_describe(worst, risks)}", kept
        )
    lasting = [server for server, samples in over.items() if samples >= limits.samples]
    if not lasting:
        samples = max(over.values())
        return Verdict(
            False,
            f"{_describe(worst, risks, starving)} for {samples} of {limits.samples} samples in a "
            "row",
            kept,
        )
    since_s = None if state.asked_at_s is None else now_s - state.asked_at_s
    if since_s is not None and since_s < limits.calm_s:
        same = "" if state.asked_of_plan != plan_version else ", and the same plan is still served"
        return Verdict(
            False,
            f"{_describe(worst, risks, starving)}; a new placement was requested "
            f"{since_s:.0f} s ago{same}; the next one after {limits.calm_s:.0f} s",
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
