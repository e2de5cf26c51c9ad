"""`running_servers`: the placement plan, applied to vLLM servers here or on a cluster."""

import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.serving.vllm_deployments import vllm_deployments
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre.errors import UserError
from maitre.settings import Settings
from resources.data_home import DataHome
from resources.gateway import Gateway
from resources.language_model import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maitre.placement.plan import PlacementPlan
    from maitre.serving.fleet.apply import Applied

FAILURES_SHOWN = 20


class Target(Enum):
    """Where servers run: as processes of this machine, or on a Kubernetes cluster."""

    local = "local"
    kubernetes = "kubernetes"


class DeploymentConfig(dg.Config):
    """Where the plan is applied."""

    target: Target = Field(
        description="local: servers of this machine. kubernetes: the current kubectl context."
    )
    adapters_folder: str = Field(
        default="", description="With local: the folder with one folder per adapter."
    )


@dg.asset(
    deps=[vllm_deployments],
    group_name="serving",
    kinds={"vllm"},
    owners=OWNERS,
    code_version="1",
    pool="deployment",
)
@retry_outages
def running_servers(
    context: dg.AssetExecutionContext,
    config: DeploymentConfig,
    home: DataHome,
    gateway: Gateway,
    language_model: LanguageModel,
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult:
    """Start, change and stop vLLM servers until the plan is applied.

    To apply the same plan again changes nothing. When a step fails, the others are still done and
    the error names the step.
    """
    plan = home.plan()
    if config.target is Target.kubernetes:
        output = _apply_to_cluster(home.manifests())
        home.write_deployed_plan(plan)
        return dg.MaterializeResult(
            metadata={"kubectl": dg.MetadataValue.md(f"```\n{output}\n```")}
        )
    folder = Path(config.adapters_folder or "?")
    done = _apply_locally(context, plan, folder, gateway, language_model.path_or_id, settings)
    if not done.complete:
        raise dg.Failure(
            f"{len(done.failed)} steps failed, {len(done.left_out)} were left out because of "
            f"them, {len(done.done)} were done: "
            + "; ".join(str(failure) for failure in done.failed[:FAILURES_SHOWN]),
            allow_retries=False,
        )
    return dg.MaterializeResult(
        metadata={
            "steps_done": len(done.done),
            "routes": dg.MetadataValue.path(gateway.routes_file),
        }
    )


def _apply_locally(
    context: dg.AssetExecutionContext,
    plan: "PlacementPlan",
    adapters_folder: Path,
    gateway: Gateway,
    base_model: str,
    settings: Settings,
) -> "Applied":
    from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
    from maitre.serving.fleet.local_server import LaunchOptions, vllm_python

    if not adapters_folder.is_dir():
        raise UserError(
            f"adapters_folder: expected a folder with one folder per adapter; got {adapters_folder}"
        )
    options = FleetOptions(
        vllm_python(settings.vllm_venv),
        adapters_folder,
        {settings.base_model_name: base_model},
        LaunchOptions("", "", prompt_embeds=True),
    )
    return LocalFleet(Path(gateway.routes_file).parent, options).apply(plan, context.log.info)


def _apply_to_cluster(manifests: "Mapping[str, str]") -> str:
    from maitre.serving.manifests.kubectl import apply_folder

    with tempfile.TemporaryDirectory() as folder:
        for name, text in manifests.items():
            Path(folder, name).write_text(text)
        return apply_folder(Path(folder), dry_run=False).text
