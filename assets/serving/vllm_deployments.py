"""`vllm_deployments`: the placement plan as Kubernetes manifests for vLLM."""

import dagster as dg
import yaml

from assets.serving.measured_profiles import known_profiles
from assets.serving.placement_plan import placement_plan
from assets.shared.check_text import description
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre.serving.manifests.kubernetes import DeploymentOptions, render
from resources.data_home import DataHome
from resources.inputs import Inputs

KUBERNETES_VERSION = "1.33"


@dg.asset(
    deps=[placement_plan],
    group_name="serving",
    kinds={"kubernetes", "yaml"},
    owners=OWNERS,
    code_version="1",
)
@retry_outages
def vllm_deployments(
    context: dg.AssetExecutionContext, home: DataHome, inputs: Inputs
) -> dg.MaterializeResult:
    """Render a kustomize folder: one Deployment and one Service per server, and routes.

    Nothing is applied: `running_servers` does that, or `kubectl apply -k`.
    """
    plan = home.plan()
    options = DeploymentOptions(profiles=list(known_profiles(home, inputs.profile).values()))
    folder = home.write_manifests(render(plan, options))
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
    """Validate every document against Kubernetes' own schema; refuse unknown fields."""
    import kubernetes_validate

    wrong = []
    files = {name: text for name, text in home.manifests().items() if name.startswith("vllm-")}
    for name, text in files.items():
        for document in yaml.safe_load_all(text):
            try:
                kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong.append(f"{name}: {error.message}")
    passed = bool(files) and not wrong
    return dg.AssetCheckResult(
        passed=passed,
        description=description(
            passed,
            f"{len(files)} files, {len(wrong)} not valid for Kubernetes {KUBERNETES_VERSION}"
            + "".join(f"; {problem}" for problem in wrong[:1]),
            "correct the profile's engine section, then materialise vllm_deployments",
        ),
        metadata={"files": len(files), "invalid": wrong[:20]},
    )
