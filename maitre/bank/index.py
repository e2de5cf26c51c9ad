"""The two layers of the bank: medoids, and behind each the prompts that are closest to it.

PromptTuner (arXiv 2603.05087) clusters the bank by K-medoids so that a lookup scores a few
representatives first and then only the members of promising clusters.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BankIndex:
    """Clusters of entries by position: `medoids[i]` stands for `members[i]`, itself included."""

    medoids: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    # Mean distance of a prompt to its medoid when the index was built; drift is measured by it.
    mean_distance: float

    @property
    def size(self) -> int:
        """How many entries are indexed."""
        return sum(len(cluster) for cluster in self.members)


def build_index(
    features: np.ndarray, *, clusters: int | None = None, random_state: int = 0
) -> BankIndex:
    """Cluster `features` (float32 `[entries, features]`) by FasterPAM.

    `clusters` defaults to 1.5 times the square root of the entries: too few miss badly, and the
    cost of a lookup is about medoids + members of a few clusters. Raises `ValueError` for an empty
    bank.
    """
    import kmedoids

    count = len(features)
    if count == 0:
        raise ValueError("an empty prompt bank has no index")
    wanted = clusters or max(1, round(1.5 * count**0.5))
    distances = pairwise_distances(features)
    if wanted >= count:
        return BankIndex(tuple(range(count)), tuple((i,) for i in range(count)), 0.0)
    found = kmedoids.fasterpam(distances, wanted, random_state=random_state, n_cpu=1)
    medoids = tuple(int(m) for m in found.medoids)
    labels = np.asarray(found.labels)
    members = tuple(tuple(int(i) for i in np.flatnonzero(labels == k)) for k in range(len(medoids)))
    nearest = distances[np.arange(count), np.asarray(medoids)[labels]]
    return BankIndex(medoids, members, float(nearest.mean()))


def pairwise_distances(features: np.ndarray) -> np.ndarray:
    """Euclidean distances between rows, float32 `[rows, rows]`, by faiss."""
    import faiss

    rows = np.ascontiguousarray(features, dtype=np.float32)
    squared = faiss.pairwise_distances(rows, rows)
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0))
