"""Decide whether a profile still predicts its measured server, and whether to fit it again."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.fidelity import compare_loads, fit_and_compare, summary
from maitre.twin.fitting.fit import ProfileIdentity
from maitre.twin.fitting.points import BASE
from maitre.twin.profile import ServerProfile

TOLERATED_FACTOR = 2.0
"""A profile is out of date when its error on new loads is this many times its stated error."""
LEAST_TOLERATED_PERCENT = 2.0


@dataclass(frozen=True)
class Fidelity:
    """The error of a profile on measured loads, and the error that is allowed."""

    figures: dict[str, float]
    stated_error_percent: float
    loads: pd.DataFrame

    @property
    def error_percent(self) -> float:
        """Return the throughput error on the loads, in percent."""
        return self.figures["throughput_tps_error_percent"]

    @property
    def allowed_error_percent(self) -> float:
        """Return twice the error that the profile states, at least 2 %."""
        return max(TOLERATED_FACTOR * self.stated_error_percent, LEAST_TOLERATED_PERCENT)

    @property
    def holds(self) -> bool:
        """Return whether the error is allowed and no starvation was predicted clearly wrongly."""
        wrong = self.figures["starvation_wrong_by_more_than_10_percent"]
        return bool(self.error_percent <= self.allowed_error_percent and wrong == 0)


@dataclass(frozen=True)
class Refit:
    """The outcome of a refit: the profile that replaces the one in use, if any, and why."""

    profile: ServerProfile | None
    reason: str
    surprising: bool = False


def has_loads(samples: pd.DataFrame) -> bool:
    """Return whether samples hold loads with adapters: a server may have ended before them."""
    return bool(((samples["kind"] == "load") & (samples["adapter"] != BASE)).any())


def stated_error_percent(profile: ServerProfile) -> float:
    """Return the throughput error on validation loads that a profile states."""
    validation = profile.fit.get("validation")
    if isinstance(validation, dict):
        return float(validation.get("throughput_tps_error_percent", 0.0))
    return float(profile.fit.get("validation_throughput_error_percent", 0.0))


def fidelity(profile: ServerProfile, samples: Any, server: MeasuredServer) -> Fidelity:
    """Simulate the validation loads of samples, all loads where none is for validation.

    Raises:
        TwinInputError: the samples hold no load.
    """
    loads = compare_loads(profile, samples, server)
    unseen = loads[loads["role"] == "validation"]
    loads = unseen if len(unseen) else loads
    return Fidelity(summary(loads), stated_error_percent(profile), loads)


def refit(
    used: ServerProfile | None, samples: Any, server: MeasuredServer, identity: ProfileIdentity
) -> Refit:
    """Fit a profile to samples, unless the profile in use still predicts them.

    The new profile replaces the one in use if its error on the validation loads, which no fit
    looks at, is lower.
    """
    if not has_loads(samples):
        return Refit(None, "its samples hold no load, so nothing is fitted to them", True)
    before = fidelity(used, samples, server) if used else None
    if before is not None and before.holds:
        return Refit(None, f"the profile in use holds: off by {before.error_percent:.1f} %")
    fitted, _ = fit_and_compare(samples, server, identity)
    after = fidelity(fitted, samples, server)
    if before is not None and after.error_percent >= before.error_percent:
        return Refit(
            None,
            f"a new fit is off by {after.error_percent:.1f} %, no better than the profile in use "
            f"({before.error_percent:.1f} %), which stays; look at the measurement",
            True,
        )
    return Refit(fitted, f"fitted, {after.error_percent:.1f} % off on validation loads")
