"""The cluster file: the GPUs and the models that the scheduler plans with."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from maitre.scheduling.cluster import Cluster, read_cluster
from maitre.scheduling.errors import SchedulingError
from maitre.settings import Settings


def planned_cluster(settings: Settings) -> Cluster:
    """Return the cluster with the models that the pool can hold; a local pool holds one.

    Raises `SchedulingError` naming what is wrong with the cluster file.
    """
    cluster = read_cluster(Path(settings.cluster))
    if settings.warm_pool != "local":
        return cluster
    held = {
        name: model for name, model in cluster.models.items() if name == settings.base_model_name
    }
    return replace(cluster, models=held)


def cluster_knowing(settings: Settings, base_model: str) -> Cluster:
    """Return the cluster; raise `SchedulingError` when its file is missing or lacks the model.

    Requests for a model that the file does not name are never scheduled.
    """
    path = Path(settings.cluster)
    if not path.is_file():
        raise SchedulingError(
            f"{path}: no such file: expected the cluster file that warm workers are planned with "
            "(cluster: in maitre.yaml)"
        )
    cluster = planned_cluster(settings)
    if base_model not in cluster.models:
        raise SchedulingError(
            f"{path}: models: no speeds of {base_model}: add warm_up_s, lookup_s, resize_s and "
            "iteration_s"
        )
    return cluster


def unplanned(settings: Settings, queued: Mapping[str, int]) -> list[str]:
    """Return a line for each base model with queued requests that no worker can hold.

    `queued` counts the queued requests by base model.
    """
    models = planned_cluster(settings).models
    return [
        f"{count} queued of {name or 'no base model'}, which no worker here holds, or of which "
        f"{settings.cluster} has no speeds: add them under models, or cancel"
        for name, count in sorted(queued.items())
        if name not in models
    ]
