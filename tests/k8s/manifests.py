"""The manifests, rendered by kubectl, and checks that hold for any of them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).resolve().parents[2] / "k8s"
KUBERNETES_VERSION = "1.33"
# What a GPU cluster brings itself: see docs/kubernetes.md.
BROUGHT = {
    "local": set(),
    "gpu": {"maitre-postgres", "maitre-worker-token", "maitre-object-store"},
}
Documents = list[dict[str, Any]]


def render(folder: Path) -> Documents:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        if os.environ.get("CI"):
            pytest.fail("no kubectl on this machine")
        pytest.skip("no kubectl on this machine")
    done = subprocess.run(
        [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: Documents, *kinds: str) -> Documents:
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: Documents) -> list[tuple[str, dict, dict]]:
    """Name, labels and pod spec of everything that makes pods."""
    return [
        (d["metadata"]["name"], d["spec"]["template"]["metadata"]["labels"], spec)
        for d in of_kind(documents, "Deployment", "StatefulSet", "Job")
        for spec in [d["spec"]["template"]["spec"]]
    ]


def matches(selector: dict, labels: dict[str, str]) -> bool:
    exact = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    return exact and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


def check_references(documents: Documents, brought: set[str]) -> None:
    """Every ServiceAccount, Secret, ConfigMap, claim and Role that is referred to is there."""
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    there |= {("Secret", secret) for secret in brought}
    for owner, _, spec in pods(documents):
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for container in spec["containers"]:
            for source in container.get("envFrom", []):
                for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                    if key in source:
                        wanted.add((kind, source[key]["name"]))
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                wanted.add(("PersistentVolumeClaim", claim))
        assert wanted <= there, (owner, wanted - there)
    for binding in of_kind(documents, "RoleBinding"):
        assert ("Role", binding["roleRef"]["name"]) in there
        assert {(s["kind"], s["name"]) for s in binding["subjects"]} <= there


def check_containers(documents: Documents) -> None:
    """Images are pinned, and containers can do little."""
    for name, _, spec in pods(documents):
        assert spec["securityContext"]["runAsNonRoot"], name
        # Without a group it is the image's, or root's: as the container runtime sees fit.
        assert spec["securityContext"]["runAsGroup"] == spec["securityContext"]["runAsUser"], name
        # Else each Service sets variables, such as DAGSTER_WEBSERVER_PORT, that are options.
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            tag = container["image"].rpartition(":")[2]
            assert tag not in ("", "latest", container["image"]), container["image"]
            box = container["securityContext"]
            assert box["readOnlyRootFilesystem"], name
            assert not box["allowPrivilegeEscalation"], name
            assert box["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            claims = {"postgres-data"} if name == "postgres" else set()
            assert mounted <= {v["name"] for v in spec.get("volumes", [])} | claims, name
