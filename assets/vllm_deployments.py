"""`vllm_deployments`: the placement plan as Kubernetes manifests for vLLM."""

import dagster as dg
import yaml

from assets.ownership import OWNERS
from assets.placement_plan import PLAN, placement_plan
from maitre.placement.plan import PlacementPlan
from resources.data_home import DataHome
from resources.vllm_manifests import DeploymentOptions, render

PLAN_FOLDER = "plan"
KUBERNETES_VERSION = "1.33"


@dg.asset(
    deps=[placement_plan],
    group_name="serving",
    kinds={"kubernetes", "yaml"},
    owners=OWNERS,
    code_version="1",
)
def vllm_deployments(context: dg.AssetExecutionContext, home: DataHome) -> dg.MaterializeResult:
    """A kustomize folder: one Deployment and Service a server, and the routes for a gateway."""
    plan = PlacementPlan.from_json(home.read_bytes(PLAN).decode())
    files = render(plan, DeploymentOptions())
    home.write_folder(PLAN_FOLDER, files)
    folder = home.url(PLAN_FOLDER)
    context.log.info(f"{plan.gpus} deployments under {folder}: kubectl apply -k {folder}")
    return dg.MaterializeResult(
        metadata={
            "deployments": plan.gpus,
            "folder": dg.MetadataValue.path(folder),
            "apply": dg.MetadataValue.md(f"`kubectl apply -k {folder}`"),
        },
    )


@dg.asset_check(asset=vllm_deployments, blocking=True)
def manifests_are_valid(home: DataHome) -> dg.AssetCheckResult:
    """Every document passes Kubernetes' own schema, unknown fields refused."""
    import kubernetes_validate

    wrong = []
    names = [name for name in home.list_folder(PLAN_FOLDER) if name.startswith("vllm-")]
    for name in names:
        for document in yaml.safe_load_all(home.read_bytes(f"{PLAN_FOLDER}/{name}")):
            try:
                kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong.append(f"{name}: {error.message}")
    return dg.AssetCheckResult(
        passed=bool(names) and not wrong,
        metadata={"files": len(names), "invalid": wrong[:20]},
    )
