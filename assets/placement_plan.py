"""`placement_plan`: which server holds which adapters, on the fewest GPUs."""

import hashlib

import dagster as dg

from assets.adapter_catalogue import CATALOGUE, adapter_catalogue
from assets.figures import bars, inline
from assets.maxpack_model import load_champion, maxpack_model
from assets.ownership import OWNERS
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking

PLAN = "placement_plan.json"
CHECKED_HOUR_S = 3600.0


class PlacementConfig(dg.Config):
    """What is promised: at most `risk` of a starving server, first tokens within the objective."""

    risk: float = 0.01
    ttft_slo_ms: float = 10_000.0
    seed: int = 0


@dg.asset(
    deps=[adapter_catalogue, maxpack_model],
    group_name="serving",
    kinds={"json"},
    owners=OWNERS,
    code_version="1",
    pool="simulation",
)
def placement_plan(
    context: dg.AssetExecutionContext,
    config: PlacementConfig,
    home: DataHome,
    inputs: Inputs,
    mlflow: MlflowTracking,
) -> dg.MaterializeResult:
    """Place the catalogue with the champion; every server is checked in the twin and repaired."""
    from maitre.maxpack.card import MaxpackError
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.place import place
    from maitre.twin import ServerProfile

    champion = load_champion(mlflow)
    if champion is None:
        raise MaxpackError("no maxpack model is champion yet; materialise maxpack_model first")
    profile = ServerProfile.load(inputs.profile)
    catalogue = AdapterCatalogue.from_frame(home.read_frame(CATALOGUE))
    with mlflow.run(context) as run:
        plan = place(
            catalogue,
            profile,
            model=champion[0],
            risk=config.risk,
            seed=config.seed,
            ttft_slo_ms=config.ttft_slo_ms,
        )
        document = plan.to_json()
        home.write_bytes(PLAN, document.encode())
        gpus = {"maitre": plan.gpus, "lower bound": plan.lower_bound_gpus, **plan.baselines}
        context.log.info(", ".join(f"{name} {n} GPUs" for name, n in gpus.items()))
        figure = bars(gpus, title=f"GPUs for {len(catalogue)} adapters", x="GPUs")
        run.params(config.model_dump() | {"maxpack_version": champion[1].version})
        run.metrics({f"gpus_{name.replace(' ', '_')}": n for name, n in gpus.items()})
        run.picture(figure, "gpus.png")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(hashlib.sha256(document.encode()).hexdigest()[:16]),
            metadata={
                "gpus": plan.gpus,
                "lower_bound_gpus": plan.lower_bound_gpus,
                **{f"gpus_{name}": n for name, n in plan.baselines.items()},
                "adapters": len(catalogue),
                "comparison": inline(figure, "GPUs by method"),
                "maxpack_version": champion[1].version,
                **run.metadata(),
            },
        )


@dg.asset_check(asset=placement_plan, blocking=True)
def no_server_starves(home: DataHome, inputs: Inputs) -> dg.AssetCheckResult:
    """Replay an hour of every server in the twin, with a seed that placement has not seen."""
    from maitre.placement.catalogue import AdapterCatalogue
    from maitre.placement.check import check_plan
    from maitre.placement.plan import PlacementPlan
    from maitre.twin import ServerProfile

    config = PlacementConfig()
    check = check_plan(
        PlacementPlan.from_json(home.read_bytes(PLAN).decode()),
        ServerProfile.load(inputs.profile),
        AdapterCatalogue.from_frame(home.read_frame(CATALOGUE)),
        seed=config.seed + 1_000_003,
        duration_s=CHECKED_HOUR_S,
    )
    return dg.AssetCheckResult(
        passed=check.passed,
        metadata={
            "servers": len(check.servers),
            "unhealthy": [server.server for server in check.unhealthy],
        },
    )
