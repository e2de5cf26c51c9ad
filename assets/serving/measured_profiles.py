"""Profiles that were fitted to measured servers: where they lie, and whether they still hold.

A kind of server is one profile name, written as a file name. Its newest samples lie beside what is
known of the server; its fitted profile takes the place of a shipped one of the same name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from resources.data_home import DataHome

if TYPE_CHECKING:
    import pandas as pd

    from maitre.twin import ServerProfile

MEASUREMENTS = "vllm_measurements"
PROFILES = "server_profiles"
TOLERATED_FACTOR = 2.0
"""A profile is out of date when new loads are missed by this times its stated error."""
LEAST_TOLERATED_PERCENT = 2.0


@dataclass(frozen=True)
class Fidelity:
    """How far a profile is off on measured loads, and how far it may be."""

    figures: dict[str, float]
    stated_error_percent: float
    loads: "pd.DataFrame"

    @property
    def error_percent(self) -> float:
        """The throughput error on the loads."""
        return self.figures["throughput_tps_error_percent"]

    @property
    def allowed_error_percent(self) -> float:
        """Twice the error that the profile states, 2 % at the least."""
        return max(TOLERATED_FACTOR * self.stated_error_percent, LEAST_TOLERATED_PERCENT)

    @property
    def holds(self) -> bool:
        """Whether the error is within that, and no starvation was called clearly wrongly."""
        wrong = self.figures["starvation_wrong_by_more_than_10_percent"]
        return bool(self.error_percent <= self.allowed_error_percent and wrong == 0)


def kind_of(profile: str) -> str:
    """The kind of server that a profile's name stands for; a partition and file name."""
    return profile.replace("/", "-")


def samples_name(kind: str) -> str:
    """Where a kind's samples lie in the data home."""
    return f"{MEASUREMENTS}/{kind}.parquet"


def about_name(kind: str) -> str:
    """Where what is known of a kind's server lies."""
    return f"{MEASUREMENTS}/{kind}.json"


def profile_name(kind: str) -> str:
    """Where the profile that was fitted to a kind's samples lies."""
    return f"{PROFILES}/{kind}.yaml"


def measured_kinds(home: DataHome) -> list[str]:
    """The kinds of which there are samples, by name."""
    names = home.list_folder(MEASUREMENTS)
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def known_profile(home: DataHome, name: str) -> "ServerProfile | None":
    """A profile by name: the one fitted to its measured server, else as it ships, or a file.

    None where there is neither.
    """
    from maitre.twin import ServerProfile

    fitted = profile_name(kind_of(name))
    if home.exists(fitted):
        return ServerProfile.model_validate(yaml.safe_load(home.read_bytes(fitted)))
    if name in ServerProfile.names() or Path(name).is_file():
        return ServerProfile.load(name)
    return None


def chosen_profile(home: DataHome, name: str) -> "ServerProfile":
    """The profile that the settings choose.

    Raises:
        TwinInputError: it neither ships nor was measured, and is no file.
    """
    from maitre.twin import ServerProfile

    found = known_profile(home, name)
    return found if found is not None else ServerProfile.load(name)


def fidelity(home: DataHome, profile: "ServerProfile", kind: str) -> Fidelity:
    """Replay the loads of a kind's newest samples with a profile: those that no fit has seen."""
    from maitre.twin.fitting.design import MeasuredServer

    about = home.read_json(about_name(kind))
    server = MeasuredServer(**about["server"])
    return compared(profile, home.read_frame(samples_name(kind)), server)


def compared(profile: "ServerProfile", samples: Any, server: Any) -> Fidelity:
    """Replay the validation loads of samples, or all where there are none of validation."""
    from maitre.twin.fitting.fidelity import compare_loads, summary

    loads = compare_loads(profile, samples, server)
    unseen = loads[loads["role"] == "validation"]
    loads = unseen if len(unseen) else loads
    return Fidelity(summary(loads), stated_error_percent(profile), loads)


def has_loads(home: DataHome, kind: str) -> bool:
    """Whether there are loads among a kind's samples: a server may have died before them."""
    samples = home.read_frame(samples_name(kind))
    return bool(((samples["kind"] == "load") & (samples["adapter"] != "")).any())


def stated_error_percent(profile: "ServerProfile") -> float:
    """The throughput error on validation that a profile states of itself."""
    validation = profile.fit.get("validation")
    if isinstance(validation, dict):
        return float(validation.get("throughput_tps_error_percent", 0.0))
    return float(profile.fit.get("validation_throughput_error_percent", 0.0))
