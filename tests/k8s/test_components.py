"""The optional components, on top of an overlay."""

import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.k8s.crd_schemas import errors_of
from tests.k8s.manifests import (
    BROUGHT,
    K8S,
    KUBERNETES_VERSION,
    Documents,
    check_containers,
    check_references,
    of_kind,
    pods,
    render,
)


def with_components(folder: Path, *names: str) -> Documents:
    """The overlay `gpu` with some components."""

    def relative(name: str) -> str:
        return os.path.relpath(K8S / name, folder)

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative("overlays/gpu")],
        "components": [relative(f"components/{name}") for name in names],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def test_the_components_fit_onto_an_overlay(tmp_path: Path) -> None:
    documents = with_components(tmp_path, "kueue", "capacity", "seed")
    [worker] = [
        d for d in documents if d["metadata"]["name"] == "worker-smollm2-135m-instruct"
    ]  # fmt: skip
    assert worker["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "maitre"
    assert {"ClusterQueue", "LocalQueue", "PriorityClass"} <= {d["kind"] for d in documents}
    [seed] = of_kind(documents, "Job")
    kubernetes_validate.validate(seed, KUBERNETES_VERSION, strict=True)
    check_containers(documents)
    check_references(documents, BROUGHT["gpu"])


@pytest.mark.parametrize("component", ["kueue", "capacity-buffer"])
def test_custom_objects_pass_their_schema_in_a_version_that_stays(
    component: str, tmp_path: Path, shared_data: Path
) -> None:
    documents = with_components(tmp_path, component)
    custom = [d for d in documents if ".x-k8s.io/" in d["apiVersion"]]
    assert custom
    for document in custom:
        assert errors_of(document, shared_data.parent / "crds") == []


def test_the_capacity_buffer_has_room_for_one_more_worker(tmp_path: Path) -> None:
    documents = with_components(tmp_path, "capacity-buffer")
    [buffer] = of_kind(documents, "CapacityBuffer")
    [room] = of_kind(documents, "PodTemplate")
    kubernetes_validate.validate(room, KUBERNETES_VERSION, strict=True)
    assert buffer["spec"]["podTemplateRef"]["name"] == room["metadata"]["name"]
    [worker] = [
        spec for name, _, spec in pods(documents) if name == "worker-smollm2-135m-instruct"
    ]  # fmt: skip
    needs = worker["containers"][0]["resources"]
    assert room["template"]["spec"]["containers"][0]["resources"] == needs
    assert room["template"]["spec"]["tolerations"] == worker["tolerations"]
    # What the restricted standard asks of every pod.
    spec = room["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_login_stands_between_the_ingress_and_the_webserver(tmp_path: Path) -> None:
    documents = with_components(tmp_path, "login")
    check_containers(documents)
    check_references(documents, BROUGHT["gpu"])
    own = [d for d in documents if "login" in d["metadata"]["name"]]
    assert {d["kind"] for d in own} == {"Deployment", "Service", "NetworkPolicy", "ConfigMap"}
    for document in own:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    [spec] = [spec for name, _, spec in pods(documents) if name == "login"]
    [container] = spec["containers"]
    [upstream] = [a for a in container["args"] if a.startswith("--upstream=")]
    ports = {
        d["metadata"]["name"]: d["spec"]["ports"][0]["port"] for d in of_kind(documents, "Service")
    }
    assert upstream == f"--upstream=http://dagster-webserver:{ports['dagster-webserver']}"
    # Its secrets come from a Secret, and the webserver can be reached from the namespace alone.
    assert not any("client" in argument for argument in container["args"])
    secret = [entry for entry in container["env"] if "SECRET" in entry["name"]]
    assert all(entry["valueFrom"]["secretKeyRef"]["name"] == "maitre-login" for entry in secret)
    [policy] = [
        d
        for d in of_kind(documents, "NetworkPolicy")
        if d["metadata"]["name"] == "webserver-from-namespace"
    ]
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {}}]
