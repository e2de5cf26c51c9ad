"""Active learning: the configurations that a model is least sure of."""

from __future__ import annotations

import numpy as np

from maitre.maxpack.design import Point, design
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.traces import point_features
from maitre.twin import Lengths, ServerProfile

# Candidates looked at for each configuration taken.
_CANDIDATES = 4
# What a configuration that the model is sure of weighs beside one on which it is undecided.
_SURE = 3e-3


def uncertain_points(
    profile: ServerProfile,
    model: MaxpackModel,
    n: int,
    seed: int = 0,
    *,
    lengths: Lengths | None = None,
    duration_s: float = 3600.0,
) -> list[Point]:
    """Return `n` of this seed's space-filling configurations, the most doubtful first.

    Doubt is the standard deviation sqrt(p (1 - p)) of whether a server starves, or is unhealthy,
    whichever is the larger. Configurations are drawn with it as weight, so that they are not all
    alike. A simulation teaches most where the model does not know the result: along the boundary,
    and where a small risk must be distinguished from no risk. Equal seeds and models give equal
    points.
    """
    candidates = design(profile, _CANDIDATES * n, seed, lengths=lengths, duration_s=duration_s)
    predicted = model.predict(point_features(profile, candidates))
    doubt = np.maximum(
        *(
            np.sqrt(predicted[name].to_numpy() * (1 - predicted[name].to_numpy()))
            for name in ("risk", "starved_probability")
        )
    )
    doubt = np.where(predicted["out_of_memory"], 0.0, doubt)
    # Weighted sampling without replacement: the largest of u^(1/w).
    u = np.random.default_rng([seed, 2]).random(len(candidates))
    order = np.argsort(np.log(u) / (doubt + _SURE))[::-1]
    return [candidates[i] for i in order[:n]]
