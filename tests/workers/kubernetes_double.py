"""A strict double of the few Kubernetes API calls that the pool uses, over HTTP.

It keeps resource versions and field managers and answers what a 1.36 server was seen to answer:
409 for a stale version or another manager's field, 422 for a selector that does not match its
template, 500 for an unknown field in an apply, 403 where the Role does not allow, 404, and, when
told to, 429 and 500.
"""

import copy
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.workers.kubernetes_objects import (
    first_to_go,
    matches,
    merged,
    own,
    owners,
    selected,
    value_at,
)

PLURALS = {
    "pods": ("v1", "Pod"),
    "deployments": ("apps/v1", "Deployment"),
    "jobs": ("batch/v1", "Job"),
}
SPEC_FIELDS = {
    "deployments": {"replicas", "selector", "template", "strategy", "minReadySeconds",
                    "revisionHistoryLimit", "progressDeadlineSeconds", "paused"},
    "jobs": {"template", "backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds",
             "completions", "parallelism", "suspend"},
    "pods": {"containers", "terminationGracePeriodSeconds", "serviceAccountName"},
}  # fmt: skip
PATH = re.compile(
    r"/(?:api/v1|apis/(?:apps|batch)/v1)/namespaces/(?P<namespace>[^/]+)/"
    r"(?P<plural>pods|deployments|jobs)(?:/(?P<name>[^/]+))?(?:/(?P<sub>scale))?"
)


class RefusedError(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Cluster:
    """Objects by (namespace, plural, name); every change raises the version."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict] = {}
        self.allowed: set[tuple[str, str]] | None = None
        self.trouble: deque[tuple[int, dict[str, str]]] = deque()
        self.calls: list[tuple[str, str]] = []
        self.deleted: list[tuple[str, Any]] = []
        self.history: list[dict] = []
        self.version = 0
        self.has_controller = False
        self.lock = threading.RLock()

    def put(self, namespace: str, plural: str, document: dict, event: str = "ADDED") -> dict:
        self.version += 1
        made = copy.deepcopy(document)
        made["apiVersion"], made["kind"] = PLURALS[plural]
        metadata = made.setdefault("metadata", {})
        metadata |= {"namespace": namespace, "resourceVersion": str(self.version)}
        metadata.setdefault("uid", f"uid-{self.version}")
        metadata.setdefault("creationTimestamp", "2030-01-01T00:00:00Z")
        self.objects[namespace, plural, metadata["name"]] = made
        self.history.append({"type": event, "object": made, "plural": plural})
        return made

    def get(self, namespace: str, plural: str, name: str) -> dict:
        try:
            return self.objects[namespace, plural, name]
        except KeyError:
            raise RefusedError(404, "NotFound", f'{plural} "{name}" not found') from None

    def handle(self, method: str, path: str, query: dict, kind: str, body: Any) -> Any:
        found = PATH.fullmatch(path)
        if found is None:
            raise RefusedError(404, "NotFound", f"no such path {path}")
        namespace, plural = found["namespace"], found["plural"]
        name, sub = found["name"], found["sub"]
        verb = {"GET": "get" if name else "list", "PUT": "update", "PATCH": "patch",
                "POST": "create", "DELETE": "delete"}[method]  # fmt: skip
        if method == "GET" and query.get("watch") in ("true", "True", "1"):
            verb = "watch"
        resource = f"{plural}/{sub}" if sub else plural
        if self.allowed is not None and (verb, resource) not in self.allowed:
            raise RefusedError(403, "Forbidden", f"cannot {verb} resource {resource!r}")
        if sub == "scale":
            return self.scale(method, namespace, name, body)
        if verb == "list":
            return self.list(namespace, plural, query)
        if verb == "watch":
            return self.watch(plural, query)
        if verb == "get":
            return self.get(namespace, plural, name)
        if verb == "create":
            if (namespace, plural, body["metadata"]["name"]) in self.objects:
                raise RefusedError(409, "AlreadyExists", f"{plural} already exists")
            self.check(plural, body)
            return self.put(namespace, plural, body)
        if verb == "delete":
            gone = self.get(namespace, plural, name)
            # Options in the body win over those in the query, the query's are then ignored.
            grace = (body or {}).get("gracePeriodSeconds") if body else query.get(
                "gracePeriodSeconds"
            )  # fmt: skip
            self.deleted.append((name, grace))
            del self.objects[namespace, plural, name]
            self.history.append({"type": "DELETED", "object": gone, "plural": plural})
            self.reconcile(namespace)
            return gone
        if "apply-patch" in kind:
            return self.apply(namespace, plural, name, query, body)
        return self.patch(namespace, plural, name, body)

    def list(self, namespace: str, plural: str, query: dict) -> dict:
        wanted = selected(query.get("labelSelector", ""))
        items = [
            o for (space, kind, _), o in sorted(self.objects.items())
            if (space, kind) == (namespace, plural)
            and matches(o, wanted)
        ]  # fmt: skip
        start = int(query.get("continue", 0))
        limit = int(query.get("limit", 0)) or len(items)
        metadata: dict = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        version, kind = PLURALS[plural]
        page = items[start : start + limit]
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": page}

    def watch(self, plural: str, query: dict) -> Any:
        after = int(query.get("resourceVersion", 0))
        wanted = selected(query.get("labelSelector", ""))
        return [
            {"type": event["type"], "object": event["object"]}
            for event in self.history
            if event["plural"] == plural
            and int(event["object"]["metadata"]["resourceVersion"]) > after
            and matches(event["object"], wanted)
        ]

    def scale(self, method: str, namespace: str, name: str, body: Any) -> dict:
        there = self.get(namespace, "deployments", name)
        if method != "GET":
            version = body.get("metadata", {}).get("resourceVersion")
            if version and version != there["metadata"]["resourceVersion"]:
                raise RefusedError(409, "Conflict", "the object has been modified")
            if body["spec"].get("replicas", 0) < 0:
                raise RefusedError(422, "Invalid", "spec.replicas: must not be negative")
            changed = copy.deepcopy(there)
            changed["spec"]["replicas"] = body["spec"].get("replicas", 0)
            own(changed, "scale", {"spec.replicas"})
            there = self.put(namespace, "deployments", changed, "MODIFIED")
            self.reconcile(namespace)
        replicas = there["spec"].get("replicas", 1)
        metadata = {key: there["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
        return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
                "spec": {"replicas": replicas}, "status": {"replicas": replicas}}  # fmt: skip

    def reconcile(self, namespace: str) -> None:
        """As a ReplicaSet does, when told to: remove the pods too many, start those that miss."""
        if not self.has_controller:
            return
        for (space, plural, name), deployment in list(self.objects.items()):
            if (space, plural) != (namespace, "deployments"):
                continue
            wanted = deployment["spec"]["selector"]["matchLabels"]
            pods = [
                o for (at, kind, _), o in self.objects.items()
                if (at, kind) == (namespace, "pods") and matches(o, wanted)
            ]  # fmt: skip
            replicas = deployment["spec"].get("replicas", 1)
            for pod in sorted(pods, key=first_to_go)[: max(0, len(pods) - replicas)]:
                del self.objects[namespace, "pods", pod["metadata"]["name"]]
            for _ in range(replicas - len(pods)):
                metadata = {"name": f"{name}-{self.version}", "labels": wanted}
                spec: dict = {"containers": []}
                made = {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
                self.put(namespace, "pods", made)

    def patch(self, namespace: str, plural: str, name: str, body: dict) -> dict:
        there = self.get(namespace, plural, name)
        version = body.get("metadata", {}).get("resourceVersion")
        if version and version != there["metadata"]["resourceVersion"]:
            raise RefusedError(409, "Conflict", "the object has been modified")
        return self.put(namespace, plural, merged(there, body), "MODIFIED")

    def apply(self, namespace: str, plural: str, name: str, query: dict, body: dict) -> dict:
        manager = query.get("fieldManager")
        if not manager:
            raise RefusedError(422, "Invalid", "fieldManager is required for apply patch")
        self.check(plural, body, applying=True)
        fields = {f"spec.{key}" for key in body.get("spec", {})}
        there = self.objects.get((namespace, plural, name))
        if there is not None:
            for other, owned in owners(there).items():
                clash = [
                    f for f in fields & owned
                    if other != manager and value_at(there, f) != value_at(body, f)
                ]  # fmt: skip
                if clash and query.get("force") not in ("true", "True"):
                    raise RefusedError(409, "Conflict", f'conflict with "{other}": {clash}')
        made = merged(there or {}, body)
        own(made, manager, fields)
        return self.put(namespace, plural, made, "MODIFIED" if there else "ADDED")

    def check(self, plural: str, body: dict, applying: bool = False) -> None:
        unknown = set(body.get("spec", {})) - SPEC_FIELDS[plural]
        if unknown and applying:
            raise RefusedError(500, "InternalError", f"failed to convert: {unknown} not in schema")
        if plural == "deployments":
            wanted = body["spec"]["selector"]["matchLabels"]
            labels = body["spec"]["template"]["metadata"].get("labels", {})
            if any(labels.get(key) != value for key, value in wanted.items()):
                raise RefusedError(422, "Invalid", "`selector` does not match template `labels`")


@contextmanager
def kubernetes_double() -> Iterator[tuple[str, Cluster]]:
    """The URL of the double, and what it holds."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            kind = self.headers.get("Content-Type", "")
            body = (yaml.safe_load(raw) if "yaml" in kind else json.loads(raw)) if raw else None
            split = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(split.query).items()}
            headers: dict[str, str] = {}
            with cluster.lock:
                cluster.calls.append((self.command, split.path))
                try:
                    if cluster.trouble:
                        status, headers = cluster.trouble.popleft()
                        raise RefusedError(status, "Trouble", "as the test asked")
                    path = unquote(split.path)
                    document = cluster.handle(self.command, path, query, kind, body)
                    status = 201 if self.command == "POST" else 200
                except RefusedError as error:
                    status = error.status
                    document = {"kind": "Status", "reason": error.reason, "code": status}
                    document |= {"message": str(error)}
                lines = document if isinstance(document, list) else [document]
                text = "\n".join(json.dumps(line) for line in lines).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", cluster
    finally:
        server.shutdown()
        server.server_close()
