"""`twin_verdict`: whether measured servers still behave as the chosen profile predicts."""

import dagster as dg

from assets.serving.measured_profiles import (
    has_measured_loads,
    kind_of,
    known_profile,
    measured_fidelity,
)
from assets.serving.vllm_measurements import content_version, vllm_measurements
from assets.shared.inputs import OWNERS, profile_files
from assets.shared.retries import retry_outages
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
@retry_outages
def twin_verdict(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Compare the chosen profile with the newest samples of its server, if any exist.

    The data version changes only when the samples contradict the profile by more than the error
    that it states. Profile, capacity model and plan depend on this asset, so a contradiction makes
    all of them stale. A measurement alone makes only the profile stale.
    """
    kind = kind_of(inputs.profile)
    before = home.twin_verdict() or {}
    version = before["version"] if before.get("kind") == kind else UNCONTRADICTED
    profile = known_profile(home, inputs.profile)
    found = measured_fidelity(home, profile, kind) if profile else None
    unknown = profile is None and has_measured_loads(home, kind)
    if unknown or (found is not None and not found.holds):
        version = _samples_version(home, kind)
    figures: dict[str, float | bool] = {}
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
    stored = home.measured_server(kind).get("data_version")
    return str(stored) if stored else content_version(home.samples(kind))
