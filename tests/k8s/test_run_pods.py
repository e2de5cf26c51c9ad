"""The pods that Dagster makes for runs and steps, as its instance on the cluster says."""

from pathlib import Path

import kubernetes_validate
import pytest

from maitre.workers.launch.dagster_internals import RunLauncher
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from tests.k8s.manifests import (
    K8S,
    KUBERNETES_VERSION,
    check_containers,
    matches,
    of_kind,
    render,
)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmPoolRunLauncher:
    """The launcher that the cluster's dagster.yaml names, without a cluster."""
    import dagster_k8s.launcher
    from dagster._core.instance.ref import InstanceRef

    (tmp_path / "dagster.yaml").write_text((K8S / "base/config/dagster.yaml").read_text())
    monkeypatch.setenv("POSTGRES_USER", "maitre")
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    monkeypatch.setattr(dagster_k8s.launcher, "load_kubernetes_config", lambda **_: None)
    named = InstanceRef.from_dir(str(tmp_path)).run_launcher_data
    assert named is not None
    made = named.rehydrate(as_type=RunLauncher)  # type: ignore[type-abstract]
    assert isinstance(made, WarmPoolRunLauncher)
    return made


def test_a_worker_without_a_token_can_load_the_instance(
    launcher: WarmPoolRunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster_k8s.launcher

    def no_token(**_: object) -> None:
        raise AssertionError("there is no ServiceAccount's token in a worker's pod")

    monkeypatch.setattr(dagster_k8s.launcher, "load_kubernetes_config", no_token)
    assert launcher.supports_resume_run


def test_dagsters_instance_launches_on_workers_and_else_as_jobs(
    launcher: WarmPoolRunLauncher,
) -> None:
    from dagster_k8s import K8sRunLauncher

    jobs = launcher._ordinary_launcher
    assert isinstance(jobs, K8sRunLauncher)
    assert jobs.job_namespace == "maitre"
    names = {d["metadata"]["name"] for d in render(K8S / "overlays" / "local")}
    assert {*jobs.env_secrets, *jobs.env_config_maps, "maitre-run", "maitre-data"} <= names


@pytest.mark.parametrize("component", ["run_worker", "step_worker"])
def test_the_pods_of_runs_and_steps_are_let_in_everywhere_they_go(
    launcher: WarmPoolRunLauncher, component: str
) -> None:
    """As dagster-k8s makes them: it asks the instance's launcher, whatever class that is."""
    import dagster as dg
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import construct_dagster_k8s_job
    from kubernetes import client

    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing)
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=False)
    made = construct_dagster_k8s_job(
        context.get_k8s_job_config("maitre:0.1.0", launcher),
        args=["dagster", "api"],
        job_name="run",
        component=component,
        user_defined_k8s_config=context.run_k8s_config,
    )
    job = client.ApiClient().sanitize_for_serialization(made)
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
    documents = render(K8S / "overlays" / "local")
    job["metadata"]["name"] = "run"
    check_containers([job])
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "maitre-run"
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    for volume in spec["volumes"]:
        for key, kind in (
            ("configMap", "ConfigMap"),
            ("persistentVolumeClaim", "PersistentVolumeClaim"),
        ):
            if key in volume:
                name = volume[key].get("name") or volume[key].get("claimName")
                assert (kind, name) in there
    labels = job["spec"]["template"]["metadata"]["labels"]
    for policy in ("postgres-from-maitre", "mlflow-from-maitre", "code-serving-from-dagster"):
        [found] = [
            d for d in of_kind(documents, "NetworkPolicy") if d["metadata"]["name"] == policy
        ]
        [source] = found["spec"]["ingress"][0]["from"]
        assert matches(source["podSelector"], labels), policy
