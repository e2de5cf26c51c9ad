"""Where the steps of a run that fans out are executed: processes here, pods on Kubernetes."""

import dagster as dg

from maitre.settings import Settings


def step_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Each step in a pod of its own where the warm workers are pods, else in a process.

    A step's pod is made as the run launcher's configuration says (`k8s/base/config/dagster.yaml`).
    """
    if settings.warm_pool == "kubernetes":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    return dg.multiprocess_executor
