"""Apply rendered manifests to a cluster with `kubectl`, and remove what the plan no longer has.

The servers of a namespace are the objects with the labels `OURS`. Those that a rendered folder does
not hold are removed after its own Deployments have rolled out: at no time do fewer servers serve.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from maitre.serving.errors import VllmError

FIELD_MANAGER = "maitre"
OURS = {"app.kubernetes.io/part-of": "maitre", "app.kubernetes.io/name": "vllm"}
"""The labels of a server's objects."""

_PRUNED = {"Deployment": "deployment.apps", "Service": "service"}
_PRUNED_CUSTOM = {"ModelAdapter": "modeladapter.model.aibrix.ai"}
"""Kinds that are removed, with kubectl's names for them; custom ones where one is rendered."""

ROLLOUT_S = 1800
"""Loading a model and capturing CUDA graphs takes many minutes."""

Kubectl = Callable[[Sequence[str]], subprocess.CompletedProcess]


@dataclass(frozen=True)
class Applied:
    """What was applied and removed (with a dry run: what would be); `text` is for a person."""

    output: str
    removed: tuple[str, ...] = ()
    is_dry_run: bool = False

    @property
    def text(self) -> str:
        """Return kubectl's output and a line per removed object."""
        word = "would remove, after the new servers serve:" if self.is_dry_run else "removed"
        return self.output + "".join(f"{word} {name}\n" for name in self.removed)


@dataclass(frozen=True)
class _Objects:
    """The objects of a rendered folder: their namespace, and names by kind."""

    namespace: str
    names: dict[str, set[str]] = field(default_factory=dict)


def apply_folder(
    folder: Path,
    *,
    dry_run: bool,
    rollout_s: int = ROLLOUT_S,
    remove_first: bool = False,
    kubectl: Kubectl | None = None,
) -> Applied:
    """Apply a kustomize folder, wait for its Deployments, then remove servers that it lacks.

    With `dry_run` nothing changes: the output is the diff. `remove_first` removes them before the
    wait, for a cluster without GPUs for both.

    Raises:
        VllmError: kubectl is not installed, the cluster does not answer or refuses an object, or a
            Deployment does not roll out in `rollout_s` seconds. Nothing is removed then.
    """
    call = kubectl or _kubectl
    # 1. Know what the folder holds.
    objects = _objects(_checked_output(call, ["kustomize", str(folder)]))
    # 2. Apply it, or show the difference.
    output = _diff(call, folder) if dry_run else _apply(call, folder)
    # 3. Find what the cluster has beyond it.
    surplus = _surplus(call, objects)
    if dry_run or not surplus:
        return Applied(output, tuple(surplus), is_dry_run=dry_run)
    # 4. Wait for the new servers, then remove the old ones.
    if not remove_first:
        _wait_for_rollouts(call, objects, rollout_s)
    for name in surplus:
        _checked_output(call, ["delete", name, f"--namespace={objects.namespace}", "--wait=false"])
    return Applied(output, tuple(surplus))


def _kubectl(arguments: Sequence[str]) -> subprocess.CompletedProcess:
    path = shutil.which("kubectl")
    if path is None:
        raise VllmError("kubectl: expected it on the PATH; got none; install it to apply a plan")
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=False)


def _checked_output(call: Kubectl, arguments: Sequence[str]) -> str:
    done = call(arguments)
    if done.returncode != 0:
        raise VllmError(f"kubectl {arguments[0]}: {reasons(done.stderr)}")
    return str(done.stdout)


def reasons(stderr: str) -> str:
    """Return the lines of kubectl's output that say what went wrong, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if line.lower().startswith("error") or "conflict" in line.lower() or "forbidden" in line
    ]
    return "; ".join(dict.fromkeys(telling or lines[-1:])) or "it failed without a message"


def _diff(call: Kubectl, folder: Path) -> str:
    done = call(["diff", "--server-side", f"--field-manager={FIELD_MANAGER}", "-k", str(folder)])
    # `kubectl diff` exits with 1 when something differs, and with more when it fails.
    if done.returncode > 1 or (done.returncode == 1 and not done.stdout):
        raise VllmError(f"kubectl diff: {reasons(done.stderr)}")
    return str(done.stdout)


def _apply(call: Kubectl, folder: Path) -> str:
    done = call(
        [
            *("apply", "--server-side", f"--field-manager={FIELD_MANAGER}"),
            *("--force-conflicts=false", "-k", str(folder)),
        ]
    )
    if done.returncode != 0:
        applied = ", ".join(line.split(" ")[0] for line in done.stdout.splitlines() if line)
        raise VllmError(
            f"kubectl apply: {reasons(done.stderr)}; applied: {applied or 'nothing'}; "
            "nothing was removed"
        )
    return str(done.stdout)


def _objects(text: str) -> _Objects:
    names: dict[str, set[str]] = {}
    namespaces = set()
    for document in yaml.safe_load_all(text):
        if document:
            names.setdefault(document["kind"], set()).add(document["metadata"]["name"])
            namespaces.add(document["metadata"].get("namespace", "default"))
    if len(namespaces) != 1:
        raise VllmError(
            f"the rendered folder: expected objects of one namespace; got {len(namespaces)}"
        )
    return _Objects(namespaces.pop(), names)


def _surplus(call: Kubectl, objects: _Objects) -> list[str]:
    """Return the cluster's servers that are not rendered, as kubectl names them, Services last."""
    custom = {kind: name for kind, name in _PRUNED_CUSTOM.items() if kind in objects.names}
    found = []
    for kind, resource in {**custom, **_PRUNED}.items():
        labels = OURS if kind in _PRUNED else {"app.kubernetes.io/part-of": "maitre"}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        listed = _checked_output(
            call,
            [
                *("get", resource, f"--namespace={objects.namespace}"),
                *(f"--selector={selector}", "--output=name"),
            ],
        )
        wanted = objects.names.get(kind, set())
        found += [
            line for line in listed.splitlines() if line and line.split("/")[-1] not in wanted
        ]
    return found


def _wait_for_rollouts(call: Kubectl, objects: _Objects, rollout_s: int) -> None:
    for name in sorted(objects.names.get("Deployment", ())):
        done = call(
            [
                *("rollout", "status", f"deployment/{name}"),
                *(f"--namespace={objects.namespace}", f"--timeout={rollout_s}s"),
            ]
        )
        if done.returncode != 0:
            raise VllmError(
                f"deployment/{name} is not ready: {reasons(done.stderr)}; the plan is applied, and "
                "no server was removed: apply again when it is ready, or remove the old servers "
                "first (--remove-first) if their GPUs are needed"
            )
