"""Find profiles in the data home: fitted to measured servers, shipped, or in a file.

A kind of server is one profile name, written as a file name. Its newest samples lie beside the
description of the server; its fitted profile replaces a shipped one of the same name.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from resources.data_home import DataHome

if TYPE_CHECKING:
    from maitre.twin import ServerProfile
    from maitre.twin.fitting.refit import Fidelity


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
        TwinInputError: it neither ships nor was measured, and is not a file.
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


def has_measured_loads(home: DataHome, kind: str) -> bool:
    """Return whether a server of this kind was measured, and its samples hold loads."""
    from maitre.twin.fitting.refit import has_loads

    return home.has_measurement(kind) and has_loads(home.samples(kind))


def measured_fidelity(home: DataHome, profile: "ServerProfile", kind: str) -> "Fidelity | None":
    """Return the error of a profile on a kind's newest loads; None where no load was measured."""
    from maitre.twin.fitting.design import MeasuredServer
    from maitre.twin.fitting.refit import fidelity

    if not has_measured_loads(home, kind):
        return None
    server = MeasuredServer(**home.measured_server(kind)["server"])
    return fidelity(profile, home.samples(kind), server)
