"""Compiles what simulating and placing need: `python -m maitre.placement.first_use`.

Numba keeps what it compiled beside the sources. That takes half a minute, which belongs to an
installation and not to the first simulation or plan.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from maitre.maxpack.design import design
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.placement.settings import SHORTEST_CHECK_S
from maitre.twin import ServerProfile

PROFILE = "h100-64gb/llama-3.1-8b-instruct"


def used_once() -> PlacementPlan:
    """Design a configuration; place some adapters with a bound, baselines and a simulation."""
    profile = ServerProfile.load(PROFILE)
    design(profile, 1)
    adapters = pd.DataFrame(
        {
            "adapter": [f"a{i}" for i in range(60)],
            "base_model": profile.base_model,
            "rank": np.resize([8, 16], 60),
            "rate_rps": np.geomspace(0.01, 4.0, 60),
        }
    )
    return place(AdapterCatalogue.from_frame(adapters), profile, check_duration_s=SHORTEST_CHECK_S)


if __name__ == "__main__":
    used_once()
