"""`twin_verdict`: whether measured servers still behave as the chosen profile predicts."""

import dagster as dg

from assets.serving.measured_profiles import (
    fidelity,
    has_loads,
    kind_of,
    known_profile,
)
from assets.serving.vllm_measurements import content_version, vllm_measurements
from assets.shared.inputs import OWNERS, profile_files
from resources.data_home import DataHome
from resources.inputs import Inputs

UNCONTRADICTED = "uncontradicted"


@dg.asset(
    deps=[profile_files, vllm_measurements],
    group_name="serving",
    kinds={"json"},
    owners=OWNERS,
    code_version="1",
)
def twin_verdict(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Compare the chosen profile with the newest samples of its server, if any exist.

    Its data version changes only when they contradict the profile by more than the error that it
    states. Profile, capacity model and plan depend on this: that, and no other measurement, makes
    all of them out of date, where a measurement alone would show on the profile only.
    """
    kind = kind_of(inputs.profile)
    before = home.twin_verdict() or {}
    version = before["version"] if before.get("kind") == kind else UNCONTRADICTED
    figures: dict[str, float | bool] = {}
    if home.has_measurement(kind) and has_loads(home, kind):
        profile = known_profile(home, inputs.profile)
        found = fidelity(home, profile, kind) if profile else None
        if found is None or not found.holds:
            version = _samples_version(home, kind)
        if found is not None:
            figures = {
                "error_percent": found.error_percent,
                "allowed_error_percent": found.allowed_error_percent,
                "holds": found.holds,
            }
    home.write_twin_verdict({"kind": kind, "version": version, **figures})
    context.log.info(f"{kind}: {figures or 'not measured'}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={"profile": inputs.profile, "measured": bool(figures), **figures},
    )


def _samples_version(home: DataHome, kind: str) -> str:
    """Return the version of a kind's samples; older data homes do not store it beside them."""
    said = home.measured_server(kind).get("data_version")
    return str(said) if said else content_version(home.samples(kind))
