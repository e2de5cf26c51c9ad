"""The warm pool of the settings."""

from pathlib import Path

from maitre.scheduling.cluster import read_cluster
from maitre.settings import Settings
from maitre.workers.pool.local import LocalPool
from maitre.workers.pool.pool import WarmPool
from maitre.workers.pool.token import read_token


def pool_of(settings: Settings) -> WarmPool | None:
    """Return the pool of the settings; `None` where they name none."""
    if settings.warm_pool == "local":
        return LocalPool.of(settings, most_workers(settings))
    if settings.warm_pool == "kubernetes":
        # The Kubernetes client takes half a second to import.
        from maitre.workers.pool.kubernetes import KubernetesPool

        return KubernetesPool.in_cluster(read_token(settings))
    return None


def most_workers(settings: Settings) -> int:
    """Return how many workers may share this machine: as many as the cluster file has GPUs."""
    path = Path(settings.cluster)
    return read_cluster(path).gpus if path.is_file() else settings.min_warm_workers
