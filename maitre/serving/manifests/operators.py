"""Render a placement plan for AIBrix, vLLM's production stack, or a Helm chart of your own.

The operators choose pods for adapters themselves. Each document therefore pins an adapter to the
pods of the plan's servers as far as the operator allows it; the docstrings say what it does not.
"""

from collections.abc import Callable
from typing import Any

import yaml

from maitre.errors import UserError
from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.serving.manifests.kubernetes import (
    DeploymentOptions,
    adapter_path,
    render,
    resource_name,
    routes,
    server_arguments,
    servers_with_profiles,
)
from maitre.serving.manifests.yaml_text import dump_all

INSTANCE_LABEL = "app.kubernetes.io/instance"


def aibrix(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the servers as manifests, and one `ModelAdapter` per adapter and server.

    AIBrix loads an adapter on pods that its selector matches, here those of one server. Its gateway
    divides requests evenly among an adapter's pods and ignores the plan's shares.
    """
    documents = []
    for server in plan.servers:
        selector = {INSTANCE_LABEL: resource_name(server.name)}
        documents += [
            {
                "apiVersion": "model.aibrix.ai/v1alpha1",
                "kind": "ModelAdapter",
                "metadata": {
                    "name": _adapter_resource(held.adapter, server, plan),
                    "namespace": options.namespace,
                    "labels": {
                        "model.aibrix.ai/name": _label(held.adapter),
                        "model.aibrix.ai/port": "8000",
                    },
                },
                "spec": {
                    "baseModel": server.base_model,
                    "podSelector": {"matchLabels": selector},
                    "artifactURL": adapter_path(held.adapter, options),
                    "replicas": 1,
                },
            }
            for held in server.adapters
        ]
    return {**_bare_servers(plan, options), "model-adapters.yaml": _dump(documents)}


def production_stack(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the servers as Helm values of the production stack, and one `LoraAdapter` per adapter.

    The operator chooses among all pods of a base model. Each server is therefore a model of its
    own, and the base model of an adapter is its server.
    """
    documents = [
        {
            "apiVersion": "production-stack.vllm.ai/v1alpha1",
            "kind": "LoraAdapter",
            "metadata": {
                "name": _adapter_resource(held.adapter, server, plan),
                "namespace": options.namespace,
            },
            "spec": {
                "baseModel": resource_name(server.name),
                "adapterSource": {
                    "type": "local",
                    "adapterName": held.adapter,
                    "adapterPath": adapter_path(held.adapter, options),
                },
                "loraAdapterDeploymentConfig": {"algorithm": "default", "replicas": 1},
            },
        }
        for server in plan.servers
        for held in server.adapters
    ]
    values = {
        "servingEngineSpec": {
            "modelSpec": [_model_spec(server, options) for server in servers_with_profiles(plan)]
        },
        "loraController": {"enableLoraController": True},
    }
    return {"values.yaml": _dump([values]), "lora-adapters.yaml": _dump(documents)}


def helm(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return values for a Helm chart of your own: the servers' arguments, and the routes."""
    servers = [
        {
            "name": resource_name(server.name),
            "baseModel": server.base_model,
            "model": options.model_of(server),
            "image": options.image_of(server),
            "gpuResource": options.gpu_resource,
            "args": server_arguments(server, options),
            "adapters": [{"name": held.adapter, "share": held.share} for held in server.adapters],
        }
        for server in servers_with_profiles(plan)
    ]
    return {"values.yaml": _dump([{"vllmServers": servers, "routes": routes(plan)}])}


Renderer = Callable[[PlacementPlan, DeploymentOptions], dict[str, str]]
FORMATS: dict[str, Renderer] = {
    "manifests": render,
    "aibrix": aibrix,
    "production-stack": production_stack,
    "helm": helm,
}


def render_as(name: str, plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the plan's files in a format, by file name.

    Raises:
        UserError: the format is unknown.
    """
    if name not in FORMATS:
        raise UserError(f"--format: expected one of {', '.join(FORMATS)}; got {name!r}")
    return FORMATS[name](plan, options)


def _bare_servers(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the manifests without `--lora-modules`: the operator loads the adapters."""
    files = render(plan, options)
    for name in [name for name in files if name.startswith("vllm-")]:
        documents = list(yaml.safe_load_all(files[name]))
        arguments = documents[0]["spec"]["template"]["spec"]["containers"][0]["args"]
        del arguments[arguments.index("--lora-modules") :]
        files[name] = _dump(documents)
    kustomization = yaml.safe_load(files["kustomization.yaml"])
    kustomization["resources"].append("model-adapters.yaml")
    return {**files, "kustomization.yaml": _dump([kustomization])}


def _model_spec(server: PlannedServer, options: DeploymentOptions) -> dict[str, Any]:
    repository, _, tag = options.image_of(server).rpartition(":")
    return {
        "name": resource_name(server.name),
        "repository": repository,
        "tag": tag,
        "modelURL": options.model_of(server),
        "replicaCount": 1,
        "requestCPU": int(options.cpu),
        "requestMemory": options.memory,
        "requestGPU": 1,
        "enableLoRA": True,
        "vllmConfig": {
            "extraArgs": [
                f"--served-model-name={resource_name(server.name)}",
                f"--gpu-memory-utilization={options.gpu_memory_utilization}",
                # The operator adds --enable-lora itself (enableLoRA).
                *(flag for flag in server.config.to_flags() if flag != "--enable-lora"),
            ]
        },
        "env": [{"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"}],
    }


def _adapter_resource(adapter: str, server: PlannedServer, plan: PlacementPlan) -> str:
    """Return the name of an adapter's resource; with several servers it includes the server."""
    name = resource_name(adapter).removeprefix("vllm-")
    if len(plan.servers_of()[adapter]) == 1:
        return name
    return resource_name(f"{adapter}@{server.name}").removeprefix("vllm-")


def _label(adapter: str) -> str:
    return resource_name(adapter).removeprefix("vllm-")


def _dump(documents: list[dict[str, Any]]) -> str:
    return dump_all(documents)
