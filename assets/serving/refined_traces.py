"""Traces of active learning: configurations about which a model of the others is uncertain."""

from typing import TYPE_CHECKING

import pandas as pd

from assets.serving.trace_batches import TraceConfig
from maitre.twin.profile import ServerProfile
from resources.data_home import DataHome

if TYPE_CHECKING:
    from maitre.progress import Progress

# Trees of the model that chooses the configurations; it is not stored.
ITERATIONS = 100


def refined_traces(
    home: DataHome,
    profile: ServerProfile,
    traces: pd.DataFrame,
    configurations: int,
    config: TraceConfig,
    on_progress: "Progress | None" = None,
) -> pd.DataFrame:
    """Return traces of configurations that a model of `traces` is least sure of; make them once.

    The file's name holds the fingerprint of `traces`, so an existing file is the right one. Return
    no rows where `traces` are too few or too much alike for a model.
    """
    from maitre.maxpack.active import uncertain_points
    from maitre.maxpack.card import MaxpackError, fingerprint_of
    from maitre.maxpack.fit import fit_model
    from maitre.maxpack.traces import make_traces

    name = (
        f"{profile.fingerprint()}/refined-{fingerprint_of(traces)}-"
        f"{config.duration_s:g}s-{configurations}.parquet"
    )
    if (stored := home.trace_file(name)) is not None:
        return stored
    try:
        model = fit_model(traces, iterations=ITERATIONS)
    except MaxpackError:
        return traces.iloc[:0]
    # Far from the seeds of the batches.
    seed = 1_000_003 * (config.seed + 1)
    found = make_traces(
        profile,
        uncertain_points(profile, model, configurations, seed),
        duration_s=config.duration_s,
        seed=seed,
        on_progress=on_progress,
    )
    home.write_trace_file(name, found)
    return found
