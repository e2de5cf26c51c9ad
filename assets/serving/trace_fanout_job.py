"""`simulate_traces`: the traces of a design, simulated by many steps at once.

Each step simulates every n-th batch and stores it in the data home. Nothing passes from step to
step, so their pods share only the data home. `twin_traces` then reads the batches and simulates the
configurations that active learning chooses.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.serving.measured_profiles import chosen_profile
from assets.serving.trace_batches import TracesConfig, batch_of_traces, batch_sizes
from resources.data_home import DataHome
from resources.inputs import Inputs

SHARES = 16


class ShareConfig(TracesConfig):
    """The part of the design that a step simulates."""

    share: int = 0


@dg.op(out=dg.Out(dg.Nothing), pool="simulation")
def simulate_share(
    context: dg.OpExecutionContext, config: ShareConfig, home: DataHome, inputs: Inputs
) -> None:
    """Simulate the batches of one share that are not stored yet."""
    profile = chosen_profile(home, inputs.profile)
    for batch, size in list(enumerate(batch_sizes(config)))[config.share :: SHARES]:
        traces = batch_of_traces(home, profile, batch, size, config)
        context.log.info(f"batch {batch}: {len(traces)} configurations")


@dg.config_mapping(
    config_schema={
        "configurations": dg.Field(int, default_value=1000),
        "refined_share": dg.Field(float, default_value=0.2),
        "seed": dg.Field(int, default_value=0),
        "duration_s": dg.Field(float, default_value=3600.0),
    }
)
def every_share(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of each step from the job's configuration."""
    batch_sizes(TracesConfig(**values))
    return {
        "ops": {
            f"share_{share:02d}": {"config": {**values, "share": share}} for share in range(SHARES)
        }
    }


def simulate_traces(executor: dg.ExecutorDefinition) -> dg.JobDefinition:
    """Return the job; `executor` decides where its steps run."""

    @dg.job(
        executor_def=executor,
        config=every_share,
        description="Simulate a design's traces, many batches at once, for twin_traces to read.",
    )
    def simulate_traces() -> None:
        for share in range(SHARES):
            simulate_share.alias(f"share_{share:02d}")()

    return simulate_traces
