"""Profiles that were fitted to measured servers: where they are, and whether they still hold.

A kind of server is one profile name, written as a file name. Its newest samples lie beside what is
known of the server; its fitted profile takes the place of a shipped one of the same name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.data_home import DataHome

if TYPE_CHECKING:
    import pandas as pd

    from maitre.twin import ServerProfile

TOLERATED_FACTOR = 2.0
"""A profile is out of date when its error on new loads is this many times its stated error."""
LEAST_TOLERATED_PERCENT = 2.0


@dataclass(frozen=True)
class Fidelity:
    """The error of a profile on measured loads, and the error that is allowed."""

    figures: dict[str, float]
    stated_error_percent: float
    loads: "pd.DataFrame"

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


def kind_of(profile: str) -> str:
    """Return the kind of server of a profile's name, as a partition and file name."""
    return profile.replace("/", "-")


def known_profile(home: DataHome, name: str) -> "ServerProfile | None":
    """Return a profile by name: fitted to its measured server, else as shipped, else from a file.

    None where there is neither.
    """
    from maitre.twin import ServerProfile

    if (fitted := home.fitted_profile(kind_of(name))) is not None:
        return fitted
    if name in ServerProfile.names() or Path(name).is_file():
        return ServerProfile.load(name)
    return None


def chosen_profile(home: DataHome, name: str) -> "ServerProfile":
    """Return the profile that the settings choose.

    Raises:
        TwinInputError: it neither ships nor was measured, and is no file.
    """
    from maitre.twin import ServerProfile

    found = known_profile(home, name)
    return found if found is not None else ServerProfile.load(name)


def known_profiles(home: DataHome, chosen: str) -> "dict[str, ServerProfile]":
    """Return profiles by name: the chosen one, those of measured servers, the shipped ones."""
    from maitre.twin import ServerProfile

    measured = [home.measured_server(kind)["name"] for kind in home.measured_kinds()]
    names = dict.fromkeys([chosen, *measured, *ServerProfile.names()])
    return {name: found for name in names if (found := known_profile(home, name))}


def fidelity(home: DataHome, profile: "ServerProfile", kind: str) -> Fidelity:
    """Simulate the loads of a kind's newest samples that no fit has seen, and compare."""
    from maitre.twin.fitting.design import MeasuredServer

    server = MeasuredServer(**home.measured_server(kind)["server"])
    return compared(profile, home.samples(kind), server)


def compared(profile: "ServerProfile", samples: Any, server: Any) -> Fidelity:
    """Simulate the validation loads of samples (all loads without them), and compare."""
    from maitre.twin.fitting.fidelity import compare_loads, summary

    loads = compare_loads(profile, samples, server)
    unseen = loads[loads["role"] == "validation"]
    loads = unseen if len(unseen) else loads
    return Fidelity(summary(loads), stated_error_percent(profile), loads)


def has_loads(home: DataHome, kind: str) -> bool:
    """Return whether a kind's samples hold loads: a server may have ended before them."""
    samples = home.samples(kind)
    return bool(((samples["kind"] == "load") & (samples["adapter"] != "")).any())


def stated_error_percent(profile: "ServerProfile") -> float:
    """Return the throughput error on validation loads that a profile states."""
    validation = profile.fit.get("validation")
    if isinstance(validation, dict):
        return float(validation.get("throughput_tps_error_percent", 0.0))
    return float(profile.fit.get("validation_throughput_error_percent", 0.0))
