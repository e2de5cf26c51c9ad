"""The cluster file, as far as warm workers need it: what the scheduler plans with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maitre.requests.request import TuningRequest
from maitre.scheduling.cluster import Cluster, read_cluster
from maitre.scheduling.errors import SchedulingError
from maitre.settings import Settings


def planned_cluster(settings: Settings) -> Cluster:
    """The cluster, with those of its models that the pool can hold: locally just one.

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
    """The cluster, which names the base model: requests for any other are never scheduled.

    Raises `SchedulingError` when there is no such file or the model is not in it.
    """
    path = Path(settings.cluster)
    if not path.is_file():
        raise SchedulingError(
            f"no cluster file {path}: warm workers are planned with it (cluster: in maitre.yaml)"
        )
    cluster = planned_cluster(settings)
    if base_model not in cluster.models:
        raise SchedulingError(
            f"no speeds of {base_model} in {path}: add them under models "
            "(warm_up_s, lookup_s, resize_s, iteration_s)"
        )
    return cluster


def unplanned(settings: Settings, requests: Sequence[TuningRequest]) -> list[str]:
    """A line for each base model whose requests are never scheduled, as the file has no speeds."""
    cluster = planned_cluster(settings)
    counts = Counter(r.base_model for r in requests if r.base_model not in cluster.models)
    return [
        f"{count} queued of {name or 'no base model'}, which no worker here holds, or of which "
        f"{settings.cluster} has no speeds: add them under models, or cancel"
        for name, count in sorted(counts.items())
    ]
