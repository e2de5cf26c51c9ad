"""`server_profiles`: the fitted constants of the servers that plans are made for."""

import dagster as dg
import pandas as pd

from assets.inputs import profile_files
from assets.ownership import OWNERS
from resources.data_home import DataHome
from resources.inputs import Inputs

PROFILE_TABLE = "server_profiles.parquet"


@dg.asset(
    deps=[profile_files], group_name="serving", kinds={"yaml"}, owners=OWNERS, code_version="1"
)
def server_profiles(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """One row a profile: GPU, base model, KV capacity, and the error of its fit."""
    from maitre.twin import ServerProfile

    names = list(dict.fromkeys([inputs.profile, *ServerProfile.names()]))
    profiles = [ServerProfile.load(name) for name in names]
    table = pd.DataFrame(
        {
            "profile": name,
            "base_model": profile.base_model,
            "fingerprint": profile.fingerprint(),
            "kv_cache_tokens_8_slots_rank_16": profile.kv_cache_tokens(8, 16) or 0,
        }
        for name, profile in zip(names, profiles, strict=True)
    )
    home.write_frame(PROFILE_TABLE, table)
    context.log.info(f"{len(table)} server profiles; plans are made for {inputs.profile}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(profiles[0].fingerprint()[:16]),
        metadata={
            "profiles": len(table),
            "chosen": inputs.profile,
            "table": dg.MetadataValue.md(table.to_markdown(index=False)),
        },
    )
