"""`vllm_deployments`: the placement plan as Kubernetes manifests for vLLM, and applied if asked."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from pydantic import Field

from assets.serving.placement_plan import DEPLOYED, PLAN, placement_plan
from assets.shared.inputs import OWNERS
from maitre.errors import UserError
from maitre.placement.plan import PlacementPlan
from maitre.serving.manifests.kubernetes import DeploymentOptions, render
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.language_model import LanguageModel

if TYPE_CHECKING:
    from maitre.serving.fleet.apply import Applied

PLAN_FOLDER = "plan"
KUBERNETES_VERSION = "1.33"
NOWHERE, LOCAL, KUBERNETES = "nowhere", "local", "kubernetes"


class DeploymentConfig(dg.Config):
    """Whether the plan is also made true, and where."""

    apply: str = Field(
        default=NOWHERE, description="nowhere (render only), local, or kubernetes (server-side)."
    )
    adapters_folder: str = Field(
        default="", description="With local: the folder with one folder an adapter."
    )


@dg.asset(
    deps=[placement_plan],
    group_name="serving",
    kinds={"kubernetes", "yaml"},
    owners=OWNERS,
    code_version="1",
)
def vllm_deployments(
    context: dg.AssetExecutionContext,
    config: DeploymentConfig,
    home: DataHome,
    gateway: Gateway,
    language_model: LanguageModel,
) -> dg.MaterializeResult:
    """A kustomize folder: one Deployment and Service a server, and the routes for a gateway.

    Applied to this machine's servers or the cluster of the current kubectl context where asked: a
    second time changes nothing. What fails is named, and the rest is done all the same.
    """
    plan = PlacementPlan.from_json(home.read_bytes(PLAN).decode())
    files = render(plan, DeploymentOptions())
    home.write_folder(PLAN_FOLDER, files)
    folder = home.url(PLAN_FOLDER)
    context.log.info(f"{plan.gpus} deployments under {folder}: kubectl apply -k {folder}")
    metadata: dict[str, Any] = {}
    if config.apply == LOCAL:
        done = _apply_locally(context, config, plan, gateway, language_model)
        metadata = {"steps_done": len(done.done), "routes": gateway.routes_file}
        if not done.complete:
            raise dg.Failure(
                f"{len(done.failed)} steps failed, {len(done.left_out)} were left out because of "
                f"them, {len(done.done)} were done: "
                + "; ".join(str(failure) for failure in done.failed[:20]),
                allow_retries=False,
            )
    elif config.apply == KUBERNETES:
        metadata = {"kubectl": dg.MetadataValue.md(f"```\n{_apply_to_cluster(files)}\n```")}
        home.write_bytes(DEPLOYED, plan.to_json().encode())
    elif config.apply != NOWHERE:
        raise UserError(f"apply: {config.apply!r} is none of {NOWHERE}, {LOCAL}, {KUBERNETES}")
    return dg.MaterializeResult(
        metadata={
            "deployments": plan.gpus,
            "folder": dg.MetadataValue.path(folder),
            "apply": dg.MetadataValue.md(f"`kubectl apply -k {folder}`"),
            **metadata,
        },
    )


def _apply_locally(
    context: dg.AssetExecutionContext,
    config: DeploymentConfig,
    plan: PlacementPlan,
    gateway: Gateway,
    language_model: LanguageModel,
) -> "Applied":
    from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
    from maitre.serving.fleet.local_server import LaunchOptions, vllm_python

    if not Path(config.adapters_folder or "?").is_dir():
        raise UserError(f"adapters_folder: {config.adapters_folder!r} is no folder")
    base = language_model.path_or_id
    options = FleetOptions(
        vllm_python(),
        Path(config.adapters_folder),
        {Path(base).name: base},
        LaunchOptions("", "", prompt_embeds=True),
    )
    fleet = LocalFleet(Path(gateway.routes_file).parent, options)
    return fleet.apply(plan, context.log.info)


def _apply_to_cluster(files: dict[str, str]) -> str:
    from maitre.serving.manifests.kubectl import apply_folder

    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        return apply_folder(Path(folder), dry_run=False)


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
