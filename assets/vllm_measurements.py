"""`vllm_measurements`: what real servers answered, a partition a kind of server.

And `twin_fidelity`: whether the profile in use still foretells what they do.
"""

from pathlib import Path

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.inputs import profile_files
from assets.ownership import OWNERS
from resources.data_home import DataHome
from resources.inputs import Inputs

SERVER_KINDS_NAME = "server_kinds"
SERVER_KINDS = dg.DynamicPartitionsDefinition(name=SERVER_KINDS_NAME)
MEASUREMENTS = "vllm_measurements"
TOLERATED_FACTOR = 2.0
"""A profile is out of date when new loads are missed by this times its stated error."""
LEAST_TOLERATED_PERCENT = 2.0


class MeasurementConfig(dg.Config):
    """Where the measurement lies that `maitre twin measure --out FOLDER` wrote."""

    samples: str = Field(description="The folder that `maitre twin measure --out` wrote.")


@dg.asset(
    partitions_def=SERVER_KINDS,
    group_name="serving",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
)
def vllm_measurements(
    context: dg.AssetExecutionContext, config: MeasurementConfig, home: DataHome
) -> dg.MaterializeResult:
    """Samples of one kind of server, taken over into the data home.

    They are taken by `maitre twin measure`, beside the server, and not in here: a run shares its
    machine with others, and a load generator must not.
    """
    from maitre.twin.measure.samples import check_samples, lateness_ms
    from resources.vllm.measurement import Measurement

    kind = context.partition_key
    measurement = Measurement(Path(config.samples))
    samples, about = measurement.read(), measurement.about()
    check_samples(samples)
    home.write_frame(samples_name(kind), samples)
    home.write_json(about_name(kind), about)
    late = lateness_ms(samples)
    context.log.info(f"{kind}: {len(samples)} requests, sent {late['p99']:.1f} ms late at p99")
    return dg.MaterializeResult(
        metadata={
            "requests": len(samples),
            "answered": int((samples["outcome"] == "ok").sum()),
            "lateness_p99_ms": late["p99"],
            "engine": str(about.get("engine", "")),
        },
    )


@dg.asset_check(asset=vllm_measurements, additional_deps=[profile_files])
def twin_fidelity(home: DataHome, inputs: Inputs) -> dg.AssetCheckResult:
    """The chosen profile replays the newest loads of its server within twice its stated error.

    Where it does not, profile, capacity model and plan rest on a server that is not there any more.
    """
    from maitre.twin import ServerProfile
    from maitre.twin.measure.design import MeasuredServer
    from maitre.twin.measure.fidelity import compare_loads, summary

    profile = ServerProfile.load(inputs.profile)
    kind = profile.name.replace("/", "-")
    if not home.exists(about_name(kind)):
        return dg.AssetCheckResult(
            passed=True, metadata={"measured": False, "profile": profile.name}
        )
    samples = home.read_frame(samples_name(kind))
    server = MeasuredServer(**home.read_json(about_name(kind))["server"])
    found = summary(compare_loads(profile, samples, server))
    stated = _stated_error_percent(profile.fit)
    allowed = max(TOLERATED_FACTOR * stated, LEAST_TOLERATED_PERCENT)
    error = found["throughput_tps_error_percent"]
    return dg.AssetCheckResult(
        passed=bool(error <= allowed) and found["starvation_wrong_by_more_than_10_percent"] == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "measured": True,
            "profile": profile.name,
            "stated_error_percent": stated,
            "allowed_error_percent": allowed,
            **{name: float(value) for name, value in found.items() if not pd.isna(value)},
        },
    )


def samples_name(kind: str) -> str:
    """Where a kind's samples lie in the data home."""
    return f"{MEASUREMENTS}/{kind}.parquet"


def about_name(kind: str) -> str:
    """Where what is known of a kind's server lies."""
    return f"{MEASUREMENTS}/{kind}.json"


def _stated_error_percent(fit: dict) -> float:
    """The throughput error on validation that a profile states of itself."""
    validation = fit.get("validation")
    if isinstance(validation, dict):
        return float(validation.get("throughput_tps_error_percent", 0.0))
    return float(fit.get("validation_throughput_error_percent", 0.0))
