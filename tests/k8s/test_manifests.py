"""The manifests, rendered by kubectl and held against schemas and against each other."""

import itertools

import kubernetes_validate
import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header

from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.serving.manifests import kubernetes as vllm_manifests
from maitre.serving.manifests.kubernetes import DeploymentOptions
from maitre.twin.limits import VllmLimits
from maitre.workers.pool.kubernetes import COMPONENT, MODEL_LABEL, WORKER_PORT, deployment_name
from tests.k8s.manifests import (
    BROUGHT,
    K8S,
    KUBERNETES_VERSION,
    Documents,
    check_containers,
    check_references,
    matches,
    of_kind,
    pods,
    render,
)


@pytest.fixture(scope="module", params=["local", "gpu"])
def overlay(request: pytest.FixtureRequest) -> tuple[str, Documents]:
    return request.param, render(K8S / "overlays" / request.param)


def vllm_servers() -> Documents:
    """The manifests of a plan with one server."""
    config = {"max_num_seqs": 1, "max_num_batched_tokens": 1, "max_loras": 1, "max_lora_rank": 8}
    held = (AdapterShare("a", 1.0),)
    server = PlannedServer("server-0", "m", VllmLimits(**config, max_cpu_loras=1), held)
    files = vllm_manifests.render(PlacementPlan("p", (server,)), DeploymentOptions())
    return list(yaml.safe_load_all(files["vllm-server-0.yaml"]))


def planned_labels(servers: Documents) -> dict[str, str]:
    [deployment] = of_kind(servers, "Deployment")
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels


def test_the_plans_servers_are_let_in_and_find_their_claim(
    overlay: tuple[str, Documents],
) -> None:
    servers, documents = vllm_servers(), overlay[1]
    labels = planned_labels(servers)
    open_ports = [
        (rule["from"], port["port"])
        for policy in of_kind(documents, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    ]
    assert open_ports == [([{"podSelector": {}}], vllm_manifests.PORT)]
    [deployment] = of_kind(servers, "Deployment")
    claims = {d["metadata"]["name"] for d in of_kind(documents, "PersistentVolumeClaim")}
    wanted = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert wanted == {"maitre-adapters"} <= claims
    # Where whoever fills the claim finds it.
    [serving] = [spec for name, _, spec in pods(documents) if name == "code-serving"]
    mounted = [m["mountPath"] for m in serving["containers"][0]["volumeMounts"]]
    assert "/adapters" in mounted


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
        # The plan's servers are not among these documents.
        known = [*labels, planned_labels(vllm_servers())]
        assert any(matches(policy["spec"]["podSelector"], each) for each in known)


def test_ports_match_probes_and_services(overlay: tuple[str, Documents]) -> None:
    documents = overlay[1]
    for name, _, spec in pods(documents):
        for container in spec["containers"]:
            ports = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                http = container.get(probe, {}).get("httpGet")
                assert http is None or http["port"] in ports, (name, probe)
            command = container.get("command", [])
            said = [
                int(value) for option, value in itertools.pairwise(command)
                if option in ("-p", "--port")
            ]  # fmt: skip
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


def test_a_slow_start_is_not_taken_for_a_dead_process(overlay: tuple[str, Documents]) -> None:
    """MLflow was ready after 64 s where seven pods started at once on one core."""
    for name, _, spec in pods(overlay[1]):
        [container] = spec["containers"]
        if "ports" not in container:
            continue  # the daemon: its probe asks the database
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 120, name
        for other in ("readinessProbe", "livenessProbe"):
            assert "initialDelaySeconds" not in container[other], (name, other)
            asked = {key: value for key, value in container[other].items() if key in probe}
            assert asked.get("exec") == probe.get("exec"), (name, other)
            assert asked.get("grpc") == probe.get("grpc"), (name, other)


def test_postgres_is_asked_where_its_users_ask_it(overlay: tuple[str, Documents]) -> None:
    """The server that makes the databases, and is stopped again, answers on the socket only."""
    [spec] = [spec for name, _, spec in pods(overlay[1]) if name == "postgres"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = spec["containers"][0][probe]
        assert "pg_isready -h 127.0.0.1 " in asked["exec"]["command"][-1]
        # To run a command in a container takes most of the default of 1 s, on a busy node all.
        assert asked["timeoutSeconds"] >= 5


def test_whatever_is_referred_to_exists(overlay: tuple[str, Documents]) -> None:
    name, documents = overlay
    check_references(documents, BROUGHT[name])


def test_images_are_pinned_and_containers_can_do_little(overlay: tuple[str, Documents]) -> None:
    check_containers(overlay[1])


def test_no_secret_stands_among_the_arguments(overlay: tuple[str, Documents]) -> None:
    """Every process of a node can read the arguments of the others."""
    secrets = {
        key
        for secret in of_kind(overlay[1], "Secret")
        for key in (*secret.get("data", {}), *secret.get("stringData", {}))
    } | {"POSTGRES_PASSWORD", "POSTGRES_USER", "MAITRE_WORKER_TOKEN", "HF_TOKEN"}
    for name, _, spec in pods(overlay[1]):
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            words = " ".join(map(str, (*container.get("command", ()), *container.get("args", ()))))
            found = {key for key in secrets if f"$({key})" in words or f"${key}" in words}
            found |= {key for key in secrets if f"${{{key}}}" in words}
            assert not found, (name, found)


def test_mlflow_has_no_workers_token_and_answers_its_own_names_only(
    overlay: tuple[str, Documents],
) -> None:
    [spec] = [spec for name, _, spec in pods(overlay[1]) if name == "mlflow"]
    [container] = spec["containers"]
    sources = [
        source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source
    ]
    assert sources == ["maitre-postgres"]
    environment = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    allowed = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for host in ("mlflow:5000", "mlflow.maitre.svc:5000", "localhost:5000", "127.0.0.1:31234"):
        assert is_allowed_host_header(allowed, host), host
    for host in ("evil.example", "mlflow-evil.example", "169.254.169.254", "10.0.0.1:5000"):
        assert not is_allowed_host_header(allowed, host), host


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
        assert worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
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


def test_workers_reach_each_other_and_little_else(overlay: tuple[str, Documents]) -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in of_kind(overlay[1], "NetworkPolicy")}
    itself = {"matchLabels": {"app.kubernetes.io/component": "warm-worker"}}
    every_port = [{"protocol": "TCP", "port": 1024, "endPort": 65535}]
    incoming = {"from": [{"podSelector": itself}], "ports": every_port}
    outgoing = {"to": [{"podSelector": itself}], "ports": every_port}
    assert incoming in policies["workers-from-dagster"]["ingress"]
    assert outgoing in policies["workers-go-nowhere-else"]["egress"]
