"""The Kubernetes backend against the strict double."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from maitre.workers.pool import kubernetes as kubernetes_pool
from maitre.workers.pool.client import WorkerClient
from maitre.workers.pool.kubernetes import (
    DELETION_COST,
    KubernetesError,
    KubernetesPool,
    deployment_name,
)
from maitre.workers.pool.pool import PoolWorker
from tests.workers.kubernetes_double import Cluster, kubernetes_double

LABELS = {"app.kubernetes.io/component": "warm-worker", "maitre/base-model": "tiny-1.5b"}
NAME = "worker-tiny-1-5b"
DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": NAME},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": []}},
    },
}


@pytest.fixture
def cluster() -> Iterator[tuple[str, Cluster]]:
    with kubernetes_double() as made:
        yield made


@pytest.fixture
def pool(cluster: tuple[str, Cluster]) -> KubernetesPool:
    url, held = cluster
    held.put("maitre", "deployments", DEPLOYMENT)
    api = client.ApiClient(client.Configuration(host=url))
    return KubernetesPool(api, "maitre", "token", sleep=lambda _: None)


def add_pod(cluster: Cluster, name: str, **metadata: object) -> None:
    cluster.put(
        "maitre",
        "pods",
        {
            "metadata": {"name": name, "labels": LABELS, **metadata},
            "spec": {"containers": []},
            "status": {"phase": "Running"},
        },
    )


def replicas(cluster: Cluster) -> int:
    return cluster.get("maitre", "deployments", NAME)["spec"]["replicas"]


def test_workers_are_the_models_pods_that_stay(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    held = cluster[1]
    for number in range(3):
        add_pod(held, f"w{number}")
    add_pod(held, "leaves", deletionTimestamp="2030-01-01T00:00:00Z")
    other = {"labels": {"app.kubernetes.io/component": "dagster"}}
    held.put("maitre", "pods", {"metadata": {"name": "x", **other}, "status": {"phase": "Running"}})
    held.put("else", "pods", held.get("maitre", "pods", "w0"))
    assert [w.name for w in pool.workers("tiny-1.5b")] == ["w0", "w1", "w2"]
    assert pool.workers("another") == []


@pytest.mark.parametrize(
    ("container", "has_answered", "failing"),
    [
        ({"started": True, "state": {"running": {}}}, True, ""),
        ({"started": False, "state": {"running": {}}}, False, ""),
        ({"started": False, "state": {"waiting": {"reason": "ContainerCreating"}}}, False, ""),
        (
            {"started": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            False,
            "CrashLoopBackOff",
        ),
    ],
)
def test_a_pod_tells_whether_it_comes_up(
    pool: KubernetesPool,
    cluster: tuple[str, Cluster],
    container: dict,
    has_answered: bool,
    failing: str,
) -> None:
    add_pod(cluster[1], "w0")
    always = {"name": "worker", "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    status = cluster[1].get("maitre", "pods", "w0")["status"]
    status["containerStatuses"] = [always | container]
    [worker] = pool.workers()
    assert (worker.has_answered, worker.failing) == (has_answered, failing)


def test_growth_adds_replicas_and_survives_conflict_throttle_and_errors(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    held = cluster[1]
    held.trouble.extend([(429, {"Retry-After": "1"}), (500, {}), (409, {})])
    pool.grow("tiny-1.5b", 3, beside=2)
    assert replicas(held) == 5
    # Seen before the new pods were listed: they are not asked for once more.
    pool.grow("tiny-1.5b", 3, beside=2)
    assert replicas(held) == 5
    pool.shrink([])
    assert replicas(held) == 5


def test_two_schedulers_that_read_the_same_do_not_lose_a_change(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    held = cluster[1]
    scale = pool._apps().read_namespaced_deployment_scale(NAME, "maitre")
    pool.grow("tiny-1.5b", 1, beside=2)
    scale.spec.replicas = 9
    with pytest.raises(client.ApiException) as refused:
        pool._apps().replace_namespaced_deployment_scale(NAME, "maitre", scale)
    assert refused.value.status == 409
    assert replicas(held) == 3


def test_workers_are_drained_and_marked_before_the_deployment_shrinks(
    pool: KubernetesPool, cluster: tuple[str, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cluster[1]
    drained: list[str] = []
    monkeypatch.setattr(
        WorkerClient,
        "drain",
        lambda self: drained.append(f"{self.url} at {replicas(held)}"),
    )
    for name in ("w0", "w1"):
        add_pod(held, name)
    pool.shrink([PoolWorker("w1", "http://10.0.0.1:8080", "tiny-1.5b", 0.0)])
    assert drained == ["http://10.0.0.1:8080 at 2"]
    marked = held.get("maitre", "pods", "w1")["metadata"]["annotations"]
    assert marked == {DELETION_COST: "-1000"}
    assert "annotations" not in held.get("maitre", "pods", "w0")["metadata"]
    assert replicas(held) == 1
    changes = [verb for verb, path in held.calls if verb != "GET"]
    assert changes == ["PATCH", "PUT"]


def test_a_deployment_shrinks_only_when_its_drained_pods_count_as_not_ready(
    pool: KubernetesPool, cluster: tuple[str, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cluster[1]
    monkeypatch.setattr(WorkerClient, "drain", lambda self: None)
    add_pod(held, "w1")
    status = held.get("maitre", "pods", "w1")["status"]
    status["conditions"] = [{"type": "Ready", "status": "True"}]
    seen: list[int] = []

    def wait(_: float) -> None:
        seen.append(replicas(held))
        if len(seen) == 3:
            held.get("maitre", "pods", "w1")["status"]["conditions"][0]["status"] = "False"

    waiting = replace(pool, sleep=wait)
    waiting.shrink([PoolWorker("w1", "http://10.0.0.1:8080", "tiny-1.5b", 0.0)])
    assert seen == [2, 2, 2]
    assert replicas(held) == 1


def test_a_drained_pod_that_stayed_in_place_of_a_pending_one_is_removed(
    pool: KubernetesPool, cluster: tuple[str, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cluster[1]
    held.has_controller = True
    monkeypatch.setattr(WorkerClient, "drain", lambda self: None)
    for name, status, spec in (
        ("busy", {"phase": "Running"}, {"nodeName": "n"}),
        ("drained", {"phase": "Running"}, {"nodeName": "n"}),
        ("pending", {"phase": "Pending"}, {}),
    ):
        add_pod(held, name)
        pod = held.get("maitre", "pods", name)
        pod["status"], pod["spec"] = status, {"containers": [], **spec}
    ready = [{"type": "Ready", "status": "True"}]
    held.get("maitre", "pods", "busy")["status"]["conditions"] = ready
    pool.grow("tiny-1.5b", 1, beside=2)
    drained = PoolWorker("drained", "http://10.0.0.1:8080", "tiny-1.5b", 0.0)
    pool.shrink([drained])
    assert sorted(pod_names(held)) == ["busy", "drained"]
    held.allowed = role("maitre-pool")
    pool.remove([drained])
    # Somebody else has seen it, too.
    pool.remove([drained])
    [new] = set(pod_names(held)) - {"busy"}
    assert held.get("maitre", "pods", new)["status"]["phase"] == "Pending"
    assert (len(pod_names(held)), replicas(held)) == (2, 2)


def pod_names(cluster: Cluster) -> list[str]:
    return [name for _, plural, name in cluster.objects if plural == "pods"]


def role(name: str) -> set[tuple[str, str]]:
    """What a Role of the manifests allows."""
    text = (Path(__file__).parents[3] / "k8s/base/rbac.yaml").read_text()
    [found] = [
        document
        for document in yaml.safe_load_all(text)
        if (document["kind"], document["metadata"]["name"]) == ("Role", name)
    ]
    return {
        (verb, resource)
        for rule in found["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def test_a_pod_that_is_gone_already_is_no_error_and_takes_no_replica_along(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    pool.shrink([PoolWorker("gone", "", "tiny-1.5b", 0.0)])
    assert replicas(cluster[1]) == 2


def test_two_schedulers_that_give_back_the_same_worker_take_one_replica(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    held = cluster[1]
    add_pod(held, "w1")
    leaving = PoolWorker("w1", "", "tiny-1.5b", 0.0)
    pool.shrink([leaving])
    pool.shrink([leaving])
    assert replicas(held) == 1


def test_a_mark_is_set_again_when_the_pod_has_changed_meanwhile(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    held = cluster[1]
    add_pod(held, "w1")
    held.trouble.append((409, {}))
    pool.shrink([PoolWorker("w1", "", "tiny-1.5b", 0.0)])
    assert replicas(held) == 1


def test_an_api_server_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kubernetes_pool, "_API_ANSWER_S", (0.05, 0.05))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        configuration = client.Configuration(host=host)
        configuration.retries = False
        api = client.ApiClient(configuration)
        pool = KubernetesPool(api, "maitre", "token", sleep=lambda _: None)
        with pytest.raises(KubernetesError, match="no API server"):
            pool.workers()


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({("list", "pods")}, "403.*Role does not allow it"),
        (None, "404.*does not exist; apply"),
    ],
)
def test_what_cannot_be_done_is_said(
    pool: KubernetesPool,
    cluster: tuple[str, Cluster],
    allowed: set[tuple[str, str]] | None,
    message: str,
) -> None:
    cluster[1].allowed = allowed
    with pytest.raises(KubernetesError, match=message):
        pool.grow("tiny-1.5b" if allowed else "unknown", 1, beside=2)


def test_deployment_names_are_names_that_kubernetes_takes() -> None:
    assert deployment_name("SmolLM2-1.7B") == "worker-smollm2-1-7b"


APPLY = {"_content_type": "application/apply-patch+yaml", "field_manager": "maitre"}


def apply(pool: KubernetesPool, spec: dict, **options: object) -> object:
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": spec,
    }
    return pool._apps().patch_namespaced_deployment(NAME, "maitre", document, **(APPLY | options))


def test_an_apply_with_replicas_conflicts_with_the_scale_and_without_does_not(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    """Why the manifests of scaled Deployments leave `replicas` out."""
    pool.grow("tiny-1.5b", 1, beside=2)
    spec = {key: value for key, value in DEPLOYMENT["spec"].items() if key != "replicas"}
    with pytest.raises(client.ApiException) as refused:
        apply(pool, {**spec, "replicas": 1})
    assert refused.value.status == 409
    apply(pool, spec)
    assert replicas(cluster[1]) == 3


@pytest.mark.parametrize(
    ("change", "status"),
    [({"replicaz": 1}, 500), ({"selector": {"matchLabels": {"other": "label"}}}, 422)],
)
def test_the_double_refuses_what_a_server_refuses(
    pool: KubernetesPool, change: dict, status: int
) -> None:
    with pytest.raises(client.ApiException) as refused:
        apply(pool, {**DEPLOYMENT["spec"], **change}, force=True)
    assert refused.value.status == status


def test_a_body_in_a_delete_overrides_the_querys_grace_period(
    pool: KubernetesPool, cluster: tuple[str, Cluster]
) -> None:
    add_pod(cluster[1], "w0")
    options = client.V1DeleteOptions(grace_period_seconds=30)
    pool._core().delete_namespaced_pod("w0", "maitre", grace_period_seconds=0, body=options)
    assert cluster[1].deleted == [("w0", 30)]
