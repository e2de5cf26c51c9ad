"""`trace_batches`: the traces of one batch of configurations, one partition per profile and batch.

A backfill simulates many batches at once, in processes here or in pods on a cluster. `twin_traces`
reads the batches that exist and simulates the others itself.
"""

from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

from assets.serving.measured_profiles import chosen_profile
from assets.serving.server_profiles import server_profiles
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre import fingerprints
from maitre.errors import UserError
from maitre.twin.profile import ServerProfile
from resources.data_home import TRACE_FILES, DataHome

if TYPE_CHECKING:
    from maitre.progress import Progress

BATCH = 100
BATCHES = 100
PARTITIONS = dg.MultiPartitionsDefinition(
    {
        "profile": dg.StaticPartitionsDefinition(ServerProfile.names()),
        "batch": dg.StaticPartitionsDefinition([f"{batch:03d}" for batch in range(BATCHES)]),
    }
)


class TraceConfig(dg.Config):
    """The simulated duration of each configuration, and the seed of the design."""

    duration_s: float = 3600.0
    seed: int = 0


class TracesConfig(TraceConfig):
    """The number of configurations, and the share that active learning chooses."""

    configurations: int = 1000
    refined_share: float = 0.2


def batch_sizes(config: TracesConfig) -> list[int]:
    """Return the configurations per batch: all but those of active learning.

    All code that simulates batches of a design takes the sizes from here: a batch of another size
    is another file.

    Raises:
        UserError: `configurations` is not between 1 and what all batches hold.
    """
    if not 0 < config.configurations <= BATCH * BATCHES:
        raise UserError(
            f"configurations: expected 1 to {BATCH * BATCHES}; got {config.configurations}"
        )
    spread = config.configurations - refined_configurations(config)
    return [min(BATCH, spread - begin) for begin in range(0, spread, BATCH)]


def refined_configurations(config: TracesConfig) -> int:
    """Return the configurations that active learning chooses: whole batches."""
    if not 0 <= config.refined_share < 1:
        raise UserError(
            f"refined_share: expected a number from 0 to below 1; got {config.refined_share}"
        )
    return int(config.refined_share * config.configurations) // BATCH * BATCH


@dg.asset(
    partitions_def=PARTITIONS,
    deps=[server_profiles],
    group_name="serving",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="simulation",
)
@retry_outages
def trace_batches(
    context: dg.AssetExecutionContext, config: TraceConfig, home: DataHome
) -> dg.MaterializeResult:
    """Simulate one batch of configurations of one profile; write one Parquet file."""
    assert isinstance(context.partition_key, dg.MultiPartitionKey)
    key = context.partition_key.keys_by_dimension
    profile = chosen_profile(home, key["profile"])
    traces = batch_of_traces(home, profile, int(key["batch"]), BATCH, config)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(fingerprints.of_frame(traces.select_dtypes("number"))),
        metadata={
            "configurations": len(traces),
            "starved_share": float(traces["starved"].mean()),
            "file": f"{TRACE_FILES}/{batch_file(profile, int(key['batch']), BATCH, config)}",
        },
    )


def batch_of_traces(
    home: DataHome,
    profile: ServerProfile,
    batch: int,
    configurations: int,
    config: TraceConfig,
    on_progress: "Progress | None" = None,
) -> pd.DataFrame:
    """Return a batch's traces; simulate and store them where they are not stored yet."""
    from maitre.maxpack.design import design
    from maitre.maxpack.traces import make_traces

    name = batch_file(profile, batch, configurations, config)
    if (stored := home.trace_file(name)) is not None:
        return stored
    # Batches of one seed are designs of their own; no two simulations share a seed.
    seed = config.seed * BATCHES + batch
    traces = make_traces(
        profile,
        design(profile, configurations, seed=seed),
        duration_s=config.duration_s,
        seed=seed * BATCH,
        on_progress=on_progress,
    )
    home.write_trace_file(name, traces)
    return traces


def batch_file(profile: ServerProfile, batch: int, configurations: int, config: TraceConfig) -> str:
    """Return the name of a batch's file.

    It holds everything that decides the content, the profile's constants and the version of the
    design included, so an existing file is the right one.
    """
    from maitre.maxpack.design import DESIGN_VERSION

    return (
        f"{profile.fingerprint()}/v{DESIGN_VERSION}-seed{config.seed}-"
        f"{config.duration_s:g}s-{batch:03d}-{configurations}.parquet"
    )
