"""Where the steps of a run that fans out are executed: local processes, or pods on Kubernetes."""

import dagster as dg

from maitre.settings import Settings


def step_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Return the executor: a pod per step if the warm workers are pods, else a process per step.

    The run launcher's configuration (`k8s/base/config/dagster.yaml`) describes the pods.
    """
    if settings.warm_pool == "kubernetes":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    return dg.multiprocess_executor
