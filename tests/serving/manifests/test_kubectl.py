"""A plan on a cluster: a double of kubectl keeps the objects, and may refuse or not roll out."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from maitre.serving.errors import VllmError
from maitre.serving.manifests.kubectl import apply_folder, reasons
from maitre.serving.manifests.kubernetes import DeploymentOptions
from maitre.serving.manifests.operators import render_as
from maitre.serving.manifests.rendered_folder import write_rendered
from tests.tiny_plans import tiny_plan

RESOURCES = {
    "Deployment": "deployment.apps",
    "Service": "service",
    "ModelAdapter": "modeladapter.model.aibrix.ai",
}
CONFLICT = (
    'Apply failed with 1 conflict: conflict with "kubectl-scale" with subresource "scale" using '
    "apps/v1: .spec.replicas"
)


class Cluster:
    """A double of kubectl and one namespace. `refused` are names that the API server refuses."""

    def __init__(self, *, refused: Sequence[str] = (), stuck: Sequence[str] = ()) -> None:
        self.objects: dict[tuple[str, str], dict] = {}
        self.refused, self.stuck = refused, stuck
        self.calls: list[list[str]] = []
        self.fewest_deployments: int | None = None

    def __call__(self, arguments: Sequence[str]) -> CompletedProcess:
        self.calls.append(list(arguments))
        return getattr(self, f"_{arguments[0]}")(list(arguments))

    def servers(self) -> set[str]:
        return {name for kind, name in self.objects if kind == "deployment.apps"}

    def _documents(self, folder: str) -> list[dict]:
        kustomization = yaml.safe_load(Path(folder, "kustomization.yaml").read_text())
        return [
            document
            for file in kustomization["resources"]
            for document in yaml.safe_load_all(Path(folder, file).read_text())
        ]

    def _kustomize(self, arguments: list[str]) -> CompletedProcess:
        return CompletedProcess(arguments, 0, yaml.safe_dump_all(self._documents(arguments[1])), "")

    def _diff(self, arguments: list[str]) -> CompletedProcess:
        return CompletedProcess(arguments, 1, "+ a difference\n", "")

    def _apply(self, arguments: list[str]) -> CompletedProcess:
        done, errors = [], []
        for document in self._documents(arguments[-1]):
            name, resource = document["metadata"]["name"], RESOURCES[document["kind"]]
            if name in self.refused:
                errors.append(
                    f"error: {CONFLICT}\nPlease review the fields above\nhttps://k8s.io/x"
                )
            else:
                self.objects[resource, name] = document
                done.append(f"{resource}/{name} serverside-applied\n")
        return CompletedProcess(arguments, bool(errors), "".join(done), "\n".join(errors))

    def _get(self, arguments: list[str]) -> CompletedProcess:
        selector = dict(part.split("=") for part in arguments[3].partition("=")[2].split(","))
        found = [
            f"{kind}/{name}\n"
            for (kind, name), document in sorted(self.objects.items())
            if kind == arguments[1] and selector.items() <= document["metadata"]["labels"].items()
        ]
        return CompletedProcess(arguments, 0, "".join(found), "")

    def _rollout(self, arguments: list[str]) -> CompletedProcess:
        name = arguments[2].removeprefix("deployment/")
        if name in self.stuck:
            return CompletedProcess(arguments, 1, "", "error: timed out waiting for the condition")
        return CompletedProcess(arguments, 0, "successfully rolled out\n", "")

    def _delete(self, arguments: list[str]) -> CompletedProcess:
        kind, name = arguments[1].split("/")
        del self.objects[kind, name]
        return CompletedProcess(arguments, 0, "deleted\n", "")


def rendered(folder: Path, *servers: str, operator: str = "manifests") -> Path:
    plan = tiny_plan({name: {f"of-{name}": 1.0} for name in servers})
    write_rendered(folder, render_as(operator, plan, DeploymentOptions()))
    return folder


@pytest.mark.parametrize("operator", ["manifests", "aibrix"])
@pytest.mark.parametrize("after", [("a", "b"), ("x", "y", "z"), ("a",)])
def test_exactly_the_plans_servers_remain(
    tmp_path: Path, after: tuple[str, ...], operator: str
) -> None:
    cluster = Cluster()
    first = rendered(tmp_path, "a", "b", "c", operator=operator)
    assert apply_folder(first, dry_run=False, kubectl=cluster).removed == ()
    # What is not a server of a plan stays.
    labels = {"app.kubernetes.io/part-of": "maitre", "app.kubernetes.io/name": "worker"}
    cluster.objects["deployment.apps", "worker"] = {"metadata": {"labels": labels}}
    done = apply_folder(
        rendered(tmp_path, *after, operator=operator), dry_run=False, kubectl=cluster
    )
    assert cluster.servers() == {*(f"vllm-{name}" for name in after), "worker"}
    services = {name for kind, name in cluster.objects if kind == "service"}
    assert services == {f"vllm-{name}" for name in after}
    if operator == "aibrix":
        adapters = {name for kind, name in cluster.objects if "modeladapter" in kind}
        assert adapters == {f"of-{name}" for name in after}
    assert "removed deployment.apps/vllm-c" in done.text


def test_old_servers_are_removed_after_the_new_ones_serve(tmp_path: Path) -> None:
    cluster = Cluster()
    apply_folder(rendered(tmp_path, "a", "b"), dry_run=False, kubectl=cluster)
    cluster.calls.clear()
    apply_folder(rendered(tmp_path, "x", "y"), dry_run=False, kubectl=cluster)
    verbs = [call[0] for call in cluster.calls]
    assert verbs.index("delete") > max(i for i, verb in enumerate(verbs) if verb == "rollout")
    waited = {call[2] for call in cluster.calls if call[0] == "rollout"}
    assert waited == {"deployment/vllm-x", "deployment/vllm-y"}


def test_nothing_is_removed_while_a_new_server_is_not_ready(tmp_path: Path) -> None:
    cluster = Cluster(stuck=["vllm-x"])
    apply_folder(rendered(tmp_path, "a"), dry_run=False, kubectl=cluster)
    changed = rendered(tmp_path, "x")
    with pytest.raises(VllmError, match=r"vllm-x is not ready: .*no server was removed"):
        apply_folder(changed, dry_run=False, kubectl=cluster)
    assert cluster.servers() == {"vllm-a", "vllm-x"}
    done = apply_folder(changed, dry_run=False, remove_first=True, kubectl=cluster)
    assert done.removed == ("deployment.apps/vllm-a", "service/vllm-a")
    assert cluster.servers() == {"vllm-x"}


def test_a_dry_run_names_what_would_be_removed_and_changes_nothing(tmp_path: Path) -> None:
    cluster = Cluster()
    apply_folder(rendered(tmp_path, "a"), dry_run=False, kubectl=cluster)
    before = dict(cluster.objects)
    done = apply_folder(rendered(tmp_path, "x"), dry_run=True, kubectl=cluster)
    assert done.text == (
        "+ a difference\n"
        "would remove, after the new servers serve: deployment.apps/vllm-a\n"
        "would remove, after the new servers serve: service/vllm-a\n"
    )
    assert cluster.objects == before


def test_every_refused_object_is_named_and_what_was_applied(tmp_path: Path) -> None:
    cluster = Cluster()
    apply_folder(rendered(tmp_path, "a", "b", "c"), dry_run=False, kubectl=cluster)
    cluster.refused = ["vllm-x"]
    with pytest.raises(VllmError) as refused:
        apply_folder(rendered(tmp_path, "a", "x"), dry_run=False, kubectl=cluster)
    message = str(refused.value)
    assert CONFLICT in message
    assert "applied: deployment.apps/vllm-a, service/vllm-a" in message
    assert "https://" not in message
    assert cluster.servers() == {"vllm-a", "vllm-b", "vllm-c"}


def test_the_telling_lines_of_kubectl_are_kept() -> None:
    assert reasons("") == "it failed without a message"
    assert reasons("Unable to connect to the server: dial tcp\n") == (
        "Unable to connect to the server: dial tcp"
    )
    both = "Error from server (Invalid): a\nerror: b\nmore at\nhttps://x\n"
    assert reasons(both) == "Error from server (Invalid): a; error: b"


def test_a_folder_rendered_twice_holds_no_leftovers_and_keeps_other_files(tmp_path: Path) -> None:
    rendered(tmp_path, "a", "b")
    (tmp_path / "notes.txt").write_text("mine")
    plan = tiny_plan({"b": {"of-b": 1.0}})
    removed, others = write_rendered(tmp_path, render_as("manifests", plan, DeploymentOptions()))
    assert (removed, others) == (["vllm-a.yaml"], ["notes.txt"])
    names = {path.name for path in tmp_path.iterdir() if path.suffix == ".yaml"}
    assert names == {"vllm-b.yaml", "kustomization.yaml"}
    # Another format, too, leaves nothing of the one before.
    write_rendered(tmp_path, render_as("helm", plan, DeploymentOptions()))
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".yaml"} == {"values.yaml"}


@pytest.mark.parametrize("content", ["{", "[1]", '["../x"]', '"a"'])
def test_a_damaged_list_is_one_error_and_nothing_is_written(tmp_path: Path, content: str) -> None:
    (tmp_path / ".maitre-rendered.json").write_text(content)
    with pytest.raises(ValueError, match="maitre-rendered"):
        write_rendered(tmp_path, {"a.yaml": "x"})
    assert not (tmp_path / "a.yaml").exists()
