"""The manifests, rendered by kubectl and held against schemas and against each other."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from resources.warm_pool.kubernetes_pool import COMPONENT, MODEL_LABEL, WORKER_PORT, deployment_name

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


@pytest.fixture(scope="module", params=["local", "gpu"])
def overlay(request: pytest.FixtureRequest) -> tuple[str, Documents]:
    return request.param, render(K8S / "overlays" / request.param)


def of_kind(documents: Documents, *kinds: str) -> Documents:
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: Documents) -> list[tuple[str, dict, dict]]:
    """Name, labels and pod spec of everything that makes pods."""
    return [
        (d["metadata"]["name"], d["spec"]["template"]["metadata"]["labels"], spec)
        for d in of_kind(documents, "Deployment", "StatefulSet")
        for spec in [d["spec"]["template"]["spec"]]
    ]


def matches(selector: dict, labels: dict[str, str]) -> bool:
    exact = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    return exact and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


def test_every_document_is_valid(overlay: tuple[str, Documents]) -> None:
    for document in overlay[1]:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_every_document_has_one_name_and_its_namespace(overlay: tuple[str, Documents]) -> None:
    names = [(d["kind"], d["metadata"]["name"]) for d in overlay[1]]
    assert len(names) == len(set(names))
    cluster_wide = ("Namespace", "PriorityClass")
    spaces = {d["metadata"].get("namespace") for d in overlay[1] if d["kind"] not in cluster_wide}
    assert spaces == {"maitre"}


def test_selectors_match_labels(overlay: tuple[str, Documents]) -> None:
    documents = overlay[1]
    labels = [labels for _, labels, _ in pods(documents)]
    for document in of_kind(documents, "Deployment", "StatefulSet"):
        template = document["spec"]["template"]["metadata"]["labels"]
        assert matches(document["spec"]["selector"], template), document["metadata"]["name"]
    for service in of_kind(documents, "Service"):
        wanted = {"matchLabels": service["spec"]["selector"]}
        assert sum(matches(wanted, each) for each in labels) == 1, service["metadata"]["name"]
    for budget in of_kind(documents, "PodDisruptionBudget"):
        assert any(matches(budget["spec"]["selector"], each) for each in labels)
    for policy in of_kind(documents, "NetworkPolicy"):
        assert any(matches(policy["spec"]["podSelector"], each) for each in labels)


def test_ports_match_probes_and_services(overlay: tuple[str, Documents]) -> None:
    documents = overlay[1]
    for name, _, spec in pods(documents):
        for container in spec["containers"]:
            ports = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                http = container.get(probe, {}).get("httpGet")
                assert http is None or http["port"] in ports, (name, probe)
            said = [int(p) for p in container.get("command", []) if str(p).isdigit()]
            assert set(said) <= set(ports.values()), name
            # Without a port it is the daemon or a placeholder.
            assert ports == {} or "readinessProbe" in container, name
    for service in of_kind(documents, "Service"):
        [spec] = [
            s for _, labels, s in pods(documents)
            if matches({"matchLabels": service["spec"]["selector"]}, labels)
        ]  # fmt: skip
        named = {p["name"]: p["containerPort"] for c in spec["containers"] for p in c["ports"]}
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"]


def test_whatever_is_referred_to_exists(overlay: tuple[str, Documents]) -> None:
    name, documents = overlay
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    there |= {("Secret", secret) for secret in BROUGHT[name]}
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


def test_images_are_pinned_and_containers_can_do_little(overlay: tuple[str, Documents]) -> None:
    for name, _, spec in pods(overlay[1]):
        assert spec["securityContext"]["runAsNonRoot"], name
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


def test_only_those_who_need_it_talk_to_the_api_server(overlay: tuple[str, Documents]) -> None:
    with_token = {
        name for name, _, spec in pods(overlay[1]) if spec["automountServiceAccountToken"]
    }
    assert with_token == {"dagster-webserver", "dagster-daemon", "code-tuning", "code-serving"}
    for role in of_kind(overlay[1], "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]


def test_workers_are_as_the_pool_expects_them(overlay: tuple[str, Documents]) -> None:
    documents = overlay[1]
    key, value = COMPONENT.split("=")
    workers = [
        d for d in of_kind(documents, "Deployment") if d["metadata"]["labels"].get(key) == value
    ]
    assert workers
    [scaled] = [
        rule["resourceNames"]
        for role in of_kind(documents, "Role")
        for rule in role["rules"]
        if "deployments/scale" in rule["resources"]
    ]
    settings = {d["metadata"]["name"]: d for d in of_kind(documents, "ConfigMap")}
    cluster = yaml.safe_load(settings["maitre-cluster"]["data"]["cluster.yaml"])
    for worker in workers:
        # The scheduler's, not the manifest's: an apply that names them conflicts with the scale.
        assert "replicas" not in worker["spec"]
        template = worker["spec"]["template"]
        model = template["metadata"]["labels"][MODEL_LABEL]
        assert worker["metadata"]["name"] == deployment_name(model)
        assert worker["metadata"]["name"] in scaled
        assert model in cluster["models"]
        [container] = template["spec"]["containers"]
        assert container["ports"][0]["containerPort"] == WORKER_PORT
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        # Time for a run to come to its next step and for its checkpoint to be stored.
        assert template["spec"]["terminationGracePeriodSeconds"] >= 60


def test_the_gpu_overlay_asks_for_gpus() -> None:
    documents = render(K8S / "overlays" / "gpu")
    asking = {
        name
        for name, _, spec in pods(documents)
        for container in spec["containers"]
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert asking == {"worker-smollm2-135m-instruct"}


def test_the_components_fit_onto_an_overlay(tmp_path: Path) -> None:
    def relative(name: str) -> str:
        return os.path.relpath(K8S / name, tmp_path)

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative("overlays/gpu")],
        "components": [relative("components/kueue"), relative("components/capacity")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = render(tmp_path)
    [worker] = [
        d for d in documents if d["metadata"]["name"] == "worker-smollm2-135m-instruct"
    ]  # fmt: skip
    assert worker["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "maitre"
    assert {"ClusterQueue", "LocalQueue", "PriorityClass"} <= {d["kind"] for d in documents}


def test_dagsters_instance_launches_on_workers_and_else_as_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster_k8s.launcher
    from dagster._core.instance.ref import InstanceRef
    from dagster_k8s import K8sRunLauncher

    from resources.warm_pool.dagster_internals import RunLauncher
    from resources.warm_pool.launcher import WarmPoolRunLauncher

    (tmp_path / "dagster.yaml").write_text((K8S / "base/config/dagster.yaml").read_text())
    monkeypatch.setenv("POSTGRES_USER", "maitre")
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    monkeypatch.setattr(dagster_k8s.launcher, "load_kubernetes_config", lambda **_: None)
    named = InstanceRef.from_dir(str(tmp_path)).run_launcher_data
    assert named is not None
    launcher = named.rehydrate(as_type=RunLauncher)
    assert isinstance(launcher, WarmPoolRunLauncher)
    jobs = launcher._otherwise
    assert isinstance(jobs, K8sRunLauncher)
    assert jobs.job_namespace == "maitre"
    names = {d["metadata"]["name"] for d in render(K8S / "overlays" / "local")}
    assert {*jobs.env_secrets, *jobs.env_config_maps, "maitre-run", "maitre-data"} <= names
