"""The pool on Kubernetes: one Deployment of workers per base model.

The pool lists pods by label, claims workers over HTTP, and grows a Deployment through its scale
subresource. To shrink, it drains the workers, gives their pods the lowest deletion cost, so that
the ReplicaSet removes these pods, and scales the Deployment down.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from maitre.workers.pool.client import ClaimRefusedError, WorkerClient, WorkerUnreachableError
from maitre.workers.pool.pool import PoolError, PoolWorker, with_views

COMPONENT = "app.kubernetes.io/component=warm-worker"
MODEL_LABEL = "maitre/base-model"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
WORKER_PORT = 8080
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TRIES = 6
_TRIES_UNANSWERED = 2
_ANSWER_S = 3.0
_API_ANSWER_S = (3.0, 10.0)
"""To connect to the API server, and to get its answer: by default the client waits for ever."""
_DRAINED_TOGETHER = 32
_FAILING = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""The reasons why a container waits and most likely never starts; others only take time."""
_READY_LOOKS = 20
_READY_LOOK_EVERY_S = 0.5


class KubernetesError(PoolError):
    """The API server has refused a call for good; the message says which and what to do."""


@dataclass(frozen=True)
class KubernetesPool:
    """The worker Deployments of one namespace; `api` is a client of the package `kubernetes`."""

    api: Any
    namespace: str
    token: str
    sleep: Callable[[float], None] = field(default=time.sleep)

    @classmethod
    def in_cluster(cls, token: str) -> "KubernetesPool":
        """Connect as the ServiceAccount of this pod; raise `PoolError` outside of a pod."""
        from kubernetes import client, config

        configuration = client.Configuration()
        # `_call` decides when to try again.
        configuration.retries = False
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise PoolError(
                "MAITRE_WARM_POOL=kubernetes asks the cluster as a pod's ServiceAccount: expected "
                f"to run in a pod ({error}); try kubectl exec deploy/code-tuning -- maitre ..."
            ) from None
        return cls(client.ApiClient(configuration), _NAMESPACE_FILE.read_text().strip(), token)

    def workers(self, base_model: str | None = None) -> list[PoolWorker]:
        """Return the workers of the pods that have not ended and are not being deleted."""
        listed = [_worker(pod) for pod in self._pods(base_model) if not _is_leaving(pod)]
        return with_views(listed, self.token, _ANSWER_S)

    def _pods(self, base_model: str | None) -> list[Any]:
        selector = COMPONENT + (f",{MODEL_LABEL}={base_model}" if base_model else "")
        listed: list[Any] = []
        page: str | None = None
        while True:
            read = partial(
                self._core().list_namespaced_pod,
                self.namespace,
                label_selector=selector,
                limit=500,
                _continue=page,
            )
            pods = self._call("list pods", read)
            listed += pods.items
            page = pods.metadata._continue
            if not page:
                return listed

    def grow(self, base_model: str, count: int, beside: int) -> None:
        """Raise the replicas of the model's Deployment; pods that do not exist yet count."""
        self._scale(base_model, lambda replicas: max(replicas, beside + count))

    def shrink(self, workers: Sequence[PoolWorker]) -> None:
        """Drain the workers, mark their pods to be deleted first, and lower the replicas."""
        if not workers:
            return
        with ThreadPoolExecutor(min(len(workers), _DRAINED_TOGETHER)) as threads:
            list(threads.map(self._drain, workers))
        marked = [worker for worker in workers if self._mark_for_deletion(worker.name)]
        self._until_not_ready({worker.name for worker in marked})
        for model, leaving in Counter(worker.base_model for worker in marked).items():
            self._scale(model, partial(_fewer_replicas, leaving))

    def _mark_for_deletion(self, name: str) -> bool:
        """Mark the pod to be deleted first; return whether this call has marked it.

        Of two schedulers that give back the same worker only one lowers the replicas. A pod that is
        gone has been replaced: the replicas stay.
        """

        def once(**options: Any) -> bool:
            pod = self._core().read_namespaced_pod(name, self.namespace, **options)
            if DELETION_COST in (pod.metadata.annotations or {}):
                return False
            version = pod.metadata.resource_version
            mark = {
                "metadata": {"resourceVersion": version, "annotations": {DELETION_COST: "-1000"}}
            }
            self._core().patch_namespaced_pod(name, self.namespace, mark, **options)
            return True

        return bool(self._call(f"mark pod {name}", once, may_be_gone=True))

    def remove(self, workers: Sequence[PoolWorker]) -> None:
        """Delete the pods of drained workers that a ReplicaSet has kept.

        A ReplicaSet removes a pod without a node, or one that is Pending, before any that runs,
        whatever their deletion costs. It then counts the drained pod as one of its replicas. When
        that pod is gone, the ReplicaSet starts a new one, which can be used. The replicas stay as
        they are, so that two schedulers that see the same pod do no more than one.
        """
        for worker in workers:
            delete = partial(self._core().delete_namespaced_pod, worker.name, self.namespace)
            self._call(f"delete pod {worker.name}", delete, may_be_gone=True)

    def _drain(self, worker: PoolWorker) -> None:
        # A worker that does not answer has nothing that could be lost.
        with suppress(WorkerUnreachableError, ClaimRefusedError):
            if worker.url:
                self.client(worker.url).drain()

    def _until_not_ready(self, names: set[str]) -> None:
        """Wait, for a limited time, until the kubelet reports that these pods are not ready.

        A ReplicaSet removes pods that are not ready before it compares deletion costs: it would
        remove a pod that still loads instead of a drained pod that counts as ready.
        """
        for _ in range(_READY_LOOKS):
            if not any(pod.metadata.name in names and _is_ready(pod) for pod in self._pods(None)):
                return
            self.sleep(_READY_LOOK_EVERY_S)

    def client(self, url: str) -> WorkerClient:
        """Return a client of the worker at `url`."""
        return WorkerClient(url, self.token, _ANSWER_S)

    def _scale(self, base_model: str, changed: Callable[[int], int]) -> None:
        """Change the replicas of the version that was read, so that no other change is lost."""
        name = deployment_name(base_model)

        def once(**options: Any) -> Any:
            scale = self._apps().read_namespaced_deployment_scale(name, self.namespace, **options)
            replicas = scale.spec.replicas or 0
            scale.spec.replicas = changed(replicas)
            if scale.spec.replicas == replicas:
                return scale
            return self._apps().replace_namespaced_deployment_scale(
                name, self.namespace, scale, **options
            )

        self._call(f"scale Deployment {name}", once)

    def _call(self, what: str, call: Callable[..., Any], may_be_gone: bool = False) -> Any:
        """Call the API server; repeat the call after a conflict, a throttle or a server error."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        for attempt in range(_TRIES):
            try:
                return call(_request_timeout=_API_ANSWER_S)
            except ApiException as error:
                if error.status == 404 and may_be_gone:
                    return None
                again = error.status in (409, 429) or error.status >= 500
                if not again or attempt == _TRIES - 1:
                    raise KubernetesError(self._explain(what, error)) from None
                wait = (error.headers or {}).get("Retry-After")
                self.sleep(float(wait) if wait else 0.1 * 2**attempt)
            except HTTPError as error:
                # The API server does not answer.
                if attempt == _TRIES_UNANSWERED - 1:
                    raise KubernetesError(f"cannot {what}: no API server: {error}") from None
                self.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _explain(self, what: str, error: Any) -> str:
        hints = {
            401: "the ServiceAccount's token is not accepted",
            403: "the ServiceAccount's Role does not allow it (k8s/base/rbac.yaml)",
            404: "it does not exist; apply k8s/ first",
            409: "another client keeps changing it",
            422: "the object is not valid",
        }
        hint = hints.get(error.status, str(error.reason))
        return f"cannot {what} in namespace {self.namespace}: {error.status}, {hint}"

    def _core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self.api)

    def _apps(self) -> Any:
        from kubernetes import client

        return client.AppsV1Api(self.api)


def deployment_name(base_model: str) -> str:
    """Return the name of the Deployment of a base model's workers."""
    return f"worker-{base_model}".replace(".", "-").lower()


def _fewer_replicas(leaving: int, replicas: int) -> int:
    return max(0, replicas - leaving)


def _is_leaving(pod: Any) -> bool:
    over = pod.status.phase in ("Succeeded", "Failed")
    return over or pod.metadata.deletion_timestamp is not None


def _is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    return any(one.type == "Ready" and one.status == "True" for one in conditions)


def _worker(pod: Any) -> PoolWorker:
    containers = pod.status.container_statuses or []
    address = pod.status.pod_ip
    if address and ":" in address:
        address = f"[{address}]"
    return PoolWorker(
        name=pod.metadata.name,
        url=f"http://{address}:{WORKER_PORT}" if address else "",
        base_model=pod.metadata.labels[MODEL_LABEL],
        started_s=pod.metadata.creation_timestamp.timestamp(),
        # Kubernetes sets `started` when the container has answered its startup probe.
        has_answered=any(one.started for one in containers),
        failing=next((why for one in containers if (why := _start_failure(one))), ""),
    )


def _start_failure(container: Any) -> str:
    """Return why the container never starts; empty when it may start."""
    waiting = container.state.waiting if container.state else None
    reason = (waiting.reason if waiting else None) or ""
    return reason if reason in _FAILING else ""
