"""The code location of the serving half: measurements, twin, maxpack, placement, deployments."""

import dagster as dg

import assets.serving
import pipelines.jobs.serving
import sensors.traffic_drift
from maitre.settings import Settings
from pipelines.automation import follow_inputs, serving_automation
from pipelines.code_location import code_location, found_in


def serving_half(settings: Settings) -> dg.Definitions:
    """Return the assets, checks, jobs, schedules and sensors of the serving half."""
    found = found_in(assets.serving, [pipelines.jobs.serving, sensors.traffic_drift])
    return dg.Definitions.merge(
        follow_inputs(found),
        pipelines.jobs.serving.fan_out(settings),
        dg.Definitions(sensors=[serving_automation()]),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the code location; read the settings."""
    settings = Settings.read()
    return code_location(settings, serving_half(settings))
