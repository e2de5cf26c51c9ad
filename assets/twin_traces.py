"""`twin_traces`: what the digital twin says of a designed set of server configurations."""

import dagster as dg
import pandas as pd

from assets.ownership import OWNERS
from assets.server_profiles import server_profiles
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking
from resources.progress import Progress

TRACES = "twin_traces.parquet"


class TraceConfig(dg.Config):
    """How much is simulated."""

    configurations: int = 1000
    duration_s: float = 3600.0
    seed: int = 0


@dg.asset(
    deps=[server_profiles],
    group_name="serving",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="simulation",
)
def twin_traces(
    context: dg.AssetExecutionContext,
    config: TraceConfig,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """One row a configuration: its features, and the throughput and starvation that it leads to."""
    from maitre.maxpack.design import design, make_traces
    from maitre.twin import ServerProfile

    profile = ServerProfile.load(inputs.profile)
    points = design(profile, config.configurations, seed=config.seed)
    with mlflow.run(context) as run:
        traces = make_traces(
            profile,
            points,
            duration_s=config.duration_s,
            seed=config.seed,
            on_progress=Progress(context.log, "configurations simulated"),
        )
        home.write_frame(TRACES, traces)
        figures = {
            "configurations": len(traces),
            "starved_share": float(traces["starved"].mean()),
            "out_of_memory_share": float(traces["out_of_memory"].mean()),
        }
        run.params(config.model_dump() | {"profile": inputs.profile})
        run.metrics(figures)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(
                str(pd.util.hash_pandas_object(traces.select_dtypes("number")).sum())
            ),
            metadata={**figures, **run.metadata()},
        )
