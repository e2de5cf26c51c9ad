"""Render a placement plan for AIBrix, vLLM's production stack, or a Helm chart of your own.

The operators choose pods for adapters themselves. Each document therefore pins an adapter to the
pods of the plan's servers as far as the operator allows it; the docstrings say what it does not.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from maitre.errors import UserError
from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.serving.manifests.kubernetes import (
    PART_OF,
    PORT,
    DeploymentOptions,
    adapter_path,
    render,
    resource_name,
    routes,
    server_arguments,
    servers_with_profiles,
)
from maitre.serving.manifests.yaml_text import dump_all
from maitre.serving.names import dns_label

INSTANCE_LABEL = "app.kubernetes.io/instance"
AIBRIX_MODEL, AIBRIX_PORT = "model.aibrix.ai/name", "model.aibrix.ai/port"
ADAPTER_LABEL_PREFIX = "adapters.maitre"
ADAPTER_ANNOTATION = "maitre/adapter"
_LABEL_VALUE = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def aibrix(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the servers as manifests, and one `ModelAdapter` per adapter.

    AIBrix's controller considers pods with the labels `model.aibrix.ai/name` and
    `adapter.model.aibrix.ai/enabled`, reads `matchLabels` alone, and, without `replicas`, loads the
    adapter on every pod that matches. Pods of several servers that hold one adapter therefore have
    a label for it. The adapter is served under the object's name; `adapter-names.json` maps the
    plan's names to those. AIBrix's gateway divides requests evenly and ignores the plan's shares.
    """
    holders = {
        adapter: sorted({resource_name(name) for name in servers})
        for adapter, servers in plan.servers_of().items()
    }
    base_models = {held.adapter: server for server in plan.servers for held in server.adapters}
    documents = [
        {
            "apiVersion": "model.aibrix.ai/v1alpha1",
            "kind": "ModelAdapter",
            "metadata": {
                "name": dns_label(adapter),
                "namespace": options.namespace,
                "labels": {
                    **PART_OF,
                    AIBRIX_MODEL: dns_label(adapter),
                    AIBRIX_PORT: str(PORT),
                },
                "annotations": {ADAPTER_ANNOTATION: adapter},
            },
            "spec": {
                "baseModel": _label_value(base_models[adapter].base_model),
                "podSelector": {"matchLabels": _pods_of(adapter, servers)},
                "artifactURL": adapter_path(adapter, options),
            },
        }
        for adapter, servers in sorted(holders.items())
    ]
    names = {adapter: dns_label(adapter) for adapter in sorted(holders)}
    return {
        **_aibrix_servers(plan, options, holders),
        "model-adapters.yaml": _dump(documents),
        "adapter-names.json": json.dumps(names, indent=2, ensure_ascii=False) + "\n",
    }


def production_stack(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the servers as Helm values of the production stack, and one `LoraAdapter` per adapter.

    The operator chooses among all pods of a base model, by their label `model`. Each server is
    therefore a model of its own, and the base model of an adapter is its server. The pods mount the
    adapters' claim and take the hub's token from the secret.
    """
    documents = [
        {
            "apiVersion": "production-stack.vllm.ai/v1alpha1",
            "kind": "LoraAdapter",
            "metadata": {
                "name": _adapter_resource(held.adapter, server, plan),
                "namespace": options.namespace,
                "labels": dict(PART_OF),
                "annotations": {ADAPTER_ANNOTATION: held.adapter},
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


def _pods_of(adapter: str, servers: list[str]) -> dict[str, str]:
    """Return the labels that select the pods of an adapter's servers, and no others."""
    if len(servers) == 1:
        return {INSTANCE_LABEL: servers[0]}
    return {f"{ADAPTER_LABEL_PREFIX}/{dns_label(adapter)}": "true"}


def _aibrix_servers(
    plan: PlacementPlan, options: DeploymentOptions, holders: Mapping[str, list[str]]
) -> dict[str, str]:
    """Return the manifests without `--lora-modules`, with the labels that AIBrix looks for."""
    files = render(plan, options)
    for server in plan.servers:
        name = resource_name(server.name)
        documents = list(yaml.safe_load_all(files[f"{name}.yaml"]))
        template = documents[0]["spec"]["template"]
        arguments = template["spec"]["containers"][0]["args"]
        del arguments[arguments.index("--lora-modules") :]
        template["metadata"]["labels"] |= {
            AIBRIX_MODEL: _label_value(server.base_model),
            AIBRIX_PORT: str(PORT),
            "adapter.model.aibrix.ai/enabled": "true",
        }
        for held in server.adapters:
            if len(holders[held.adapter]) > 1:
                template["metadata"]["labels"] |= _pods_of(held.adapter, holders[held.adapter])
        files[f"{name}.yaml"] = _dump(documents)
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
        "hf_token": {"secretName": options.hub_token_secret, "secretKey": "token"},
        "extraVolumes": [
            {
                "name": "adapters",
                "persistentVolumeClaim": {"claimName": options.adapters_claim, "readOnly": True},
            }
        ],
        "extraVolumeMounts": [
            {"name": "adapters", "mountPath": options.adapters_path, "readOnly": True}
        ],
    }


def _adapter_resource(adapter: str, server: PlannedServer, plan: PlacementPlan) -> str:
    """Return the name of an adapter's resource; with several servers it includes the server."""
    if len(plan.servers_of()[adapter]) == 1:
        return dns_label(adapter)
    return dns_label(f"{adapter}@{server.name}")


def _label_value(name: str) -> str:
    """Return the name if Kubernetes takes it as a label's value; else a DNS label for it."""
    return name if _LABEL_VALUE.fullmatch(name) else dns_label(name)


def _dump(documents: list[dict[str, Any]]) -> str:
    return dump_all(documents)
