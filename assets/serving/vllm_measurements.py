"""`vllm_measurements`: samples of real vLLM servers, one partition per kind of server."""

from pathlib import Path

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.serving.measured_profiles import kind_of
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre import fingerprints
from maitre.errors import UserError
from resources.data_home import DataHome

SERVER_KINDS_NAME = "server_kinds"
SERVER_KINDS = dg.DynamicPartitionsDefinition(name=SERVER_KINDS_NAME)


class MeasurementConfig(dg.Config):
    """Which measurement to copy."""

    samples: str = Field(description="The folder that `maitre twin measure --out` wrote.")


@dg.asset(
    partitions_def=SERVER_KINDS,
    group_name="serving",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
)
@retry_outages
def vllm_measurements(
    context: dg.AssetExecutionContext, config: MeasurementConfig, home: DataHome
) -> dg.MaterializeResult:
    """Copy the samples of one kind of server into the data home.

    `maitre twin measure` takes them on the server's machine. A Dagster run must not generate load:
    it shares its machine with other runs.
    """
    from maitre.serving.measure.samples_folder import Measurement
    from maitre.twin.fitting.samples import check_samples, lateness_ms

    kind = context.partition_key
    measurement = Measurement(Path(config.samples))
    samples, about = measurement.read(), measurement.about()
    measured = str(about.get("name", ""))
    if kind_of(measured) != kind:
        raise UserError(
            f"{config.samples}: expected a measurement of the partition {kind!r}; got one of "
            f"{measured!r}; materialise the partition {kind_of(measured)!r}"
        )
    check_samples(samples)
    version = content_version(samples)
    home.write_measurement(kind, samples, {**about, "data_version": version})
    late = lateness_ms(samples)
    context.log.info(f"{kind}: {len(samples)} requests; p99 of the send delay {late['p99']:.1f} ms")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "requests": len(samples),
            "answered": int((samples["outcome"] == "ok").sum()),
            "lateness_p99_ms": late["p99"],
            "engine": str(about.get("engine", "")),
        },
    )


def content_version(samples: pd.DataFrame) -> str:
    """Return a hash of the samples' numbers."""
    numbers = pd.util.hash_pandas_object(samples.select_dtypes("number"), index=False)
    return fingerprints.of_bytes(numbers.to_numpy().tobytes())
