"""`adapter_catalogue`: the adapters to serve, checked against the profile."""

import dagster as dg

from assets.serving.measured_profiles import chosen_profile
from assets.shared.inputs import OWNERS, adapter_file, profile_files
from assets.shared.retries import retry_outages
from resources.data_home import DataHome
from resources.inputs import Inputs


@dg.asset(
    deps=[adapter_file, profile_files],
    group_name="serving",
    kinds={"csv", "parquet"},
    owners=OWNERS,
    code_version="1",
)
@retry_outages
def adapter_catalogue(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Check and store the catalogue: base models, ranks within the profile, rates of at least 0."""
    from maitre.placement.catalogue import AdapterCatalogue

    profile = chosen_profile(home, inputs.profile)
    catalogue = AdapterCatalogue.read(
        inputs.adapters,
        base_models=[profile.base_model],
        max_rank=profile.valid.max_lora_rank[1],
    )
    home.write_catalogue(catalogue)
    context.log.info(f"{len(catalogue)} adapters, {catalogue.rates_rps.sum():.1f} requests/s")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(inputs.adapters_fingerprint()),
        metadata={
            "adapters": len(catalogue),
            "offered_rps": float(catalogue.rates_rps.sum()),
            "largest_rank": int(catalogue.ranks.max()),
            "sample": dg.MetadataValue.md(catalogue.frame().head(10).to_markdown(index=False)),
        },
    )
