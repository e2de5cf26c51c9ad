"""Render a placement plan as Kubernetes manifests: one Deployment and one Service per server.

The functions are pure: they take a plan and options and return documents. `kubectl apply -k`
applies the folder of the documents. The container's arguments are those of `vllm serve`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.serving.manifests.yaml_text import dump, dump_all
from maitre.serving.names import adapter_folder, resource_name
from maitre.twin.profile import Engine, ServerProfile

PORT = 8000
PART_OF = {"app.kubernetes.io/part-of": "maitre"}
FALLBACK_IMAGE = "vllm/vllm-openai:v0.8.5"
"""The image where neither the options nor a profile name one."""


@dataclass(frozen=True)
class DeploymentOptions:
    """The cluster's part of a deployment: image, sources of models and adapters, GPUs.

    The image and model id of a server are those of its profile, or of a profile for the same base
    model. `image`, and `model_ids` by base model, override them.
    """

    namespace: str = "maitre"
    image: str = ""
    model_ids: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[ServerProfile] = field(default_factory=ServerProfile.shipped)
    adapters_claim: str = "maitre-adapters"
    adapters_path: str = "/adapters"
    hub_token_secret: str = "maitre-hub-token"
    gpu_resource: str = "nvidia.com/gpu"
    gpu_memory_utilization: float = 0.9
    cpu: str = "4"
    memory: str = "48Gi"

    def engine_of(self, server: PlannedServer) -> Engine | None:
        """Return the engine of the server's profile, else of one for the same base model."""
        named = [found for found in self.profiles if found.name == server.profile]
        alike = [found for found in self.profiles if found.base_model == server.base_model]
        return next((found.engine for found in (*named, *alike)), None)

    def image_of(self, server: PlannedServer) -> str:
        """Return the image of vLLM for a server."""
        engine = self.engine_of(server)
        return self.image or (engine.container_image if engine else "") or FALLBACK_IMAGE

    def model_of(self, server: PlannedServer) -> str:
        """Return the model id that a server loads, the base model's name where none is known."""
        engine = self.engine_of(server)
        known = self.model_ids.get(server.base_model) or (engine.model_id if engine else "")
        return known or server.base_model


def servers_with_profiles(plan: PlacementPlan) -> list[PlannedServer]:
    """Return the plan's servers, each with the name of its profile."""
    return [replace(server, profile=server.profile or plan.profile) for server in plan.servers]


def render(plan: PlacementPlan, options: DeploymentOptions) -> dict[str, str]:
    """Return the files of a kustomize folder by name.

    There is one YAML file per server, `kustomization.yaml`, and `routes.json` for the gateway:
    adapter -> services with shares.
    """
    files = {}
    for server in servers_with_profiles(plan):
        documents = [_deployment(server, options), _service(server, options)]
        files[f"{resource_name(server.name)}.yaml"] = dump_all(documents)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": options.namespace,
        "resources": sorted(files),
    }
    files["routes.json"] = json.dumps(routes(plan), indent=2, sort_keys=True) + "\n"
    files["kustomization.yaml"] = dump(kustomization)
    return files


def routes(plan: PlacementPlan) -> dict[str, dict[str, float]]:
    """Return, for each adapter, its services and their shares of the adapter's requests."""
    table: dict[str, dict[str, float]] = {}
    for server in plan.servers:
        for placed in server.adapters:
            table.setdefault(placed.adapter, {})[resource_name(server.name)] = placed.share
    return table


def _selector(name: str) -> dict[str, str]:
    """Return the labels by which a Deployment and its Service select their pods."""
    return {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": name}


def _deployment(server: PlannedServer, options: DeploymentOptions) -> dict[str, Any]:
    name = resource_name(server.name)
    selector = _selector(name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {**selector, **PART_OF},
            "annotations": {"maitre/server": server.name, "maitre/base-model": server.base_model},
        },
        "spec": {
            # No `replicas`: an autoscaler or `kubectl scale` may own them; Kubernetes starts one.
            # A surge would need a GPU more than the plan has.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**selector, **PART_OF}},
                "spec": _pod(server, options),
            },
        },
    }


def _pod(server: PlannedServer, options: DeploymentOptions) -> dict[str, Any]:
    def probe(period_s: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": period_s,
            "failureThreshold": failures,
        }

    return {
        "automountServiceAccountToken": False,
        # Otherwise each Service sets variables, and vLLM reads those that start with VLLM_.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "vllm",
                "image": options.image_of(server),
                "args": server_arguments(server, options),
                "ports": [{"name": "http", "containerPort": PORT}],
                "env": [
                    # The image has no user of this id, and torch's caches need a name.
                    {"name": "USER", "value": "vllm"},
                    {"name": "LOGNAME", "value": "vllm"},
                    {"name": "HOME", "value": "/cache"},
                    {"name": "HF_HOME", "value": "/cache/huggingface"},
                    # A new plan loads and unloads adapters without a restart.
                    {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"},
                    {
                        "name": "HF_TOKEN",
                        "valueFrom": {
                            "secretKeyRef": {
                                "name": options.hub_token_secret,
                                "key": "token",
                                "optional": True,
                            }
                        },
                    },
                ],
                "resources": {
                    "requests": {"cpu": options.cpu, "memory": options.memory},
                    "limits": {options.gpu_resource: 1, "memory": options.memory},
                },
                # Loading the model and capturing CUDA graphs for many slots takes many minutes.
                "startupProbe": probe(10, 180),
                "readinessProbe": probe(5, 3),
                "livenessProbe": probe(20, 6),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "adapters", "mountPath": options.adapters_path, "readOnly": True},
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {
                "name": "adapters",
                "persistentVolumeClaim": {"claimName": options.adapters_claim, "readOnly": True},
            },
            {"name": "cache", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }


def adapter_path(adapter: str, options: DeploymentOptions) -> str:
    """Return the folder of an adapter in a server's container.

    Raises:
        UserError: the adapter's name leads out of the volume.
    """
    return str(adapter_folder(PurePosixPath(options.adapters_path), adapter))


def server_arguments(server: PlannedServer, options: DeploymentOptions) -> list[str]:
    """Return the arguments of `vllm serve` for one planned server."""
    return [
        f"--model={options.model_of(server)}",
        f"--served-model-name={server.base_model}",
        f"--port={PORT}",
        f"--gpu-memory-utilization={options.gpu_memory_utilization}",
        *server.config.to_flags(),
        "--lora-modules",
        *(f"{a.adapter}={adapter_path(a.adapter, options)}" for a in server.adapters),
    ]


def _service(server: PlannedServer, options: DeploymentOptions) -> dict[str, Any]:
    name = resource_name(server.name)
    selector = _selector(name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {**selector, **PART_OF},
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
