"""`server_profiles`: the fitted constants of the servers that plans are made for."""

import dagster as dg
import pandas as pd

from assets.serving.measured_profiles import (
    chosen_profile,
    kind_of,
    known_profile,
    known_profiles,
    measured_fidelity,
)
from assets.serving.twin_verdict import twin_verdict
from assets.serving.vllm_measurements import vllm_measurements
from assets.shared.check_text import description
from assets.shared.figures import against, inline
from assets.shared.inputs import OWNERS, profile_files
from assets.shared.retries import retry_outages
from resources.data_home import DataHome
from resources.inputs import Inputs


@dg.asset(
    deps=[profile_files, twin_verdict, vllm_measurements],
    group_name="serving",
    kinds={"yaml"},
    owners=OWNERS,
    code_version="2",
)
@retry_outages
def server_profiles(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Write one row per profile: base model, KV capacity, and the error of its fit.

    Fit the profile of a measured kind of server again when it no longer predicts the samples.
    """
    from maitre.twin.fitting.refit import stated_error_percent

    refitted = [kind for kind in home.measured_kinds() if _refit(context, home, kind)]
    chosen = chosen_profile(home, inputs.profile)
    table = pd.DataFrame(
        {
            "profile": name,
            "base_model": profile.base_model,
            "fingerprint": profile.fingerprint(),
            "measured_here": home.has_fitted_profile(kind_of(name)),
            "stated_error_percent": stated_error_percent(profile),
            "kv_cache_tokens_8_slots_rank_16": profile.kv_cache_tokens(8, 16) or 0,
        }
        for name, profile in known_profiles(home, inputs.profile).items()
    )
    home.write_profile_table(table)
    context.log.info(f"{len(table)} server profiles; plans are made for {inputs.profile}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(chosen.fingerprint()[:16]),
        metadata={
            "profiles": len(table),
            "chosen": inputs.profile,
            "fitted_again": refitted,
            "table": dg.MetadataValue.md(table.to_markdown(index=False)),
        },
    )


@dg.asset_check(asset=server_profiles, additional_deps=[vllm_measurements])
def twin_fidelity(home: DataHome, inputs: Inputs) -> dg.AssetCheckResult:
    """Simulate the newest loads of the chosen profile's server; allow twice its stated error.

    When the check fails, profile, capacity model and plan are those of another server.
    """
    profile = chosen_profile(home, inputs.profile)
    found = measured_fidelity(home, profile, kind_of(profile.name))
    if found is None:
        return dg.AssetCheckResult(
            passed=True,
            description=f"{profile.name}: no measured server to compare with",
            metadata={"measured": False, "profile": profile.name},
        )
    picture = against(
        found.loads["throughput_tps"].tolist(),
        found.loads["throughput_tps_predicted"].tolist(),
        title=f"{profile.name}: loads that no fit has seen",
        x="measured, tokens/s",
        y="twin, tokens/s",
    )
    return dg.AssetCheckResult(
        passed=found.holds,
        severity=dg.AssetCheckSeverity.WARN,
        description=description(
            found.holds,
            f"{profile.name}: throughput error {found.error_percent:.1f} % on the newest loads, "
            f"{found.allowed_error_percent:.1f} % allowed",
            "materialise server_profiles to fit the profile again, or measure the server again "
            "(maitre twin measure)",
        ),
        metadata={
            "measured": True,
            "profile": profile.name,
            "stated_error_percent": found.stated_error_percent,
            "allowed_error_percent": found.allowed_error_percent,
            **{key: float(value) for key, value in found.figures.items() if not pd.isna(value)},
            "loads": inline(picture, "throughput, twin against measured"),
        },
    )


def _refit(context: dg.AssetExecutionContext, home: DataHome, kind: str) -> bool:
    """Fit a kind's profile again where that is due; return whether a new profile was written."""
    from maitre.serving.measure.samples_folder import identity_of
    from maitre.twin.fitting.design import MeasuredServer
    from maitre.twin.fitting.refit import refit

    about = home.measured_server(kind)
    used = known_profile(home, about["name"])
    server = MeasuredServer(**about["server"])
    found = refit(used, home.samples(kind), server, identity_of(about))
    log = context.log.warning if found.surprising else context.log.info
    log(f"{kind}: {found.reason}")
    if found.profile is None:
        return False
    home.write_fitted_profile(kind, found.profile)
    return True
