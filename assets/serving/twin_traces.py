"""`twin_traces`: a designed set of server configurations, simulated by the digital twin."""

import dagster as dg
import pandas as pd

from assets.serving.measured_profiles import chosen_profile
from assets.serving.refined_traces import refined_traces
from assets.serving.server_profiles import server_profiles
from assets.serving.trace_batches import (
    TracesConfig,
    batch_of_traces,
    batch_sizes,
    refined_configurations,
    trace_batches,
)
from assets.shared.figures import against, inline
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre import fingerprints
from maitre.progress import LoggedProgress
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking, run_links


@dg.asset(
    # Optional: this asset simulates the batches that no backfill has made.
    deps=[server_profiles, trace_batches],
    group_name="serving",
    kinds={"numba", "parquet"},
    owners=OWNERS,
    code_version="2",
    pool="simulation",
)
@retry_outages
def twin_traces(
    context: dg.AssetExecutionContext,
    config: TracesConfig,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """Write one row per configuration: its features, its throughput, and whether it starves.

    Read the batches that `trace_batches` has made, so a run that was killed continues where it
    stopped. Then add the configurations of active learning (column `refined`).
    """
    profile = chosen_profile(home, inputs.profile)
    sizes, refined = batch_sizes(config), refined_configurations(config)
    with mlflow.run(context) as run:
        progress = LoggedProgress(context.log, "configurations simulated")
        batches = []
        for batch, size in enumerate(sizes):
            batches.append(batch_of_traces(home, profile, batch, size, config))
            progress(sum(sizes[: batch + 1]), config.configurations)
        traces = pd.concat(batches, ignore_index=True)
        if refined:
            unsure = refined_traces(home, profile, traces, refined, config)
            progress(len(traces) + len(unsure), config.configurations)
            traces = pd.concat(
                [traces.assign(refined=False), unsure.assign(refined=True)], ignore_index=True
            )
        home.write_traces(traces)
        figures = {
            "configurations": len(traces),
            "starved_share": float(traces["starved"].mean()),
            "out_of_memory_share": float(traces["out_of_memory"].mean()),
        }
        ran = traces[~traces["out_of_memory"].astype(bool)]
        figure = against(
            ran["offered_tps"].tolist(),
            ran["throughput_tps"].tolist(),
            title="Simulated servers",
            x="offered, tokens/s",
            y="delivered, tokens/s",
        )
        run.params(config.model_dump() | {"profile": inputs.profile})
        run.metrics(figures)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprints.of_frame(traces.select_dtypes("number"))),
            metadata={
                **figures,
                "delivered": inline(figure, "delivered against offered throughput"),
                **run_links(run),
            },
        )
