"""What the Roles allow, against what is asked of the API server under them."""

import pytest
from dagster_k8s.client import DagsterKubernetesClient
from kubernetes import client

from tests.k8s.manifests import K8S, of_kind, render
from tests.workers.kubernetes_double import kubernetes_double


def allowed_to(account: str) -> set[tuple[str, str]]:
    """The (verb, resource) pairs that its Roles give a ServiceAccount of the overlay `local`."""
    documents = render(K8S / "overlays" / "local")
    bound = {
        binding["roleRef"]["name"]
        for binding in of_kind(documents, "RoleBinding")
        if account in [subject["name"] for subject in binding["subjects"]]
    }
    return {
        (verb, resource)
        for role in of_kind(documents, "Role")
        if role["metadata"]["name"] in bound
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize("account", ["maitre-run", "maitre-dagster"])
def test_whoever_cancels_a_step_or_a_run_may_end_its_pods(account: str) -> None:
    """As k8s_job_executor and K8sRunLauncher do it: the Job is deleted, then its pods by name."""
    with kubernetes_double() as (url, cluster):
        named = {"job-name": "step"}
        template = {"metadata": {"labels": named}, "spec": {"containers": []}}
        job = {"metadata": {"name": "step"}, "spec": {"template": template}}
        cluster.put("maitre", "jobs", job)
        pod = {"metadata": {"name": "step-0", "labels": named}, "status": {"phase": "Running"}}
        cluster.put("maitre", "pods", pod)
        cluster.allowed = allowed_to(account)
        api = client.ApiClient(client.Configuration(host=url))
        asking = DagsterKubernetesClient.production_client(
            batch_api_override=client.BatchV1Api(api), core_api_override=client.CoreV1Api(api)
        )
        assert asking.delete_job("step", "maitre")
        assert not cluster.objects
