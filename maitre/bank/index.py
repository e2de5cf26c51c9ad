"""Two layers over the bank's prompts: medoids of clusters, and under each the cluster's members.

Clusters are made by FasterPAM (Schubert & Rousseeuw 2021) on cosine distances between feature
vectors; faiss finds the nearest vectors of a query.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import faiss
import kmedoids
import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankError

Device = Literal["auto", "cpu"]

MOST_NEIGHBOURS = 2048
"""What faiss finds at most on a GPU."""

_GROWTH = 0.25
_DRIFT = 1.5


@dataclass(frozen=True, eq=False)
class BankIndex:
    """Clusters of entry ids: `members[i]` holds those nearest to `medoids[i]`, itself included.

    `mean_distance` is the mean cosine distance of an entry to its medoid when the index was built.
    """

    feature: str
    medoids: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    mean_distance: float
    entry_ids: tuple[str, ...]
    _vectors: Any = field(repr=False)
    _medoid_vectors: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.entry_ids)

    def nearest(self, vector: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Return the entries whose feature vectors are nearest to `vector`, with their cosines.

        `MOST_NEIGHBOURS` at most.
        """
        query = _unit(vector[None].astype(np.float32))
        wanted = min(count, len(self), MOST_NEIGHBOURS)
        similarities, places = self._vectors.search(query, wanted)
        return [
            (self.entry_ids[place], float(similarity))
            for place, similarity in zip(places[0], similarities[0], strict=True)
        ]

    def stale_because(self, bank: PromptBank) -> str | None:
        """Return why the index must be built again for `bank`; `None` while it fits."""
        known = set(self.entry_ids)
        fresh = [entry for entry in bank if entry.entry_id not in known]
        gone = len(known - {entry.entry_id for entry in bank})
        if len(fresh) + gone > _GROWTH * len(known):
            return f"{len(fresh)} entries came and {gone} went since {len(known)} were indexed"
        if fresh:
            vectors = np.stack([entry.feature(self.feature) for entry in fresh])
            distance = float(np.mean([1 - self._to_nearest_medoid(vector) for vector in vectors]))
            if distance > _DRIFT * max(self.mean_distance, 1e-3):
                return (
                    f"new entries lie {distance:.3f} from their medoids, "
                    f"against {self.mean_distance:.3f} when it was built"
                )
        return None

    def _to_nearest_medoid(self, vector: np.ndarray) -> float:
        return float((self._medoid_vectors @ _unit(vector[None].astype(np.float32))[0]).max())


def build_index(
    bank: PromptBank,
    feature: str,
    clusters: int | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> BankIndex:
    """Cluster the bank on a feature that all its entries have (`PromptBank.with_features`).

    `clusters` defaults to twice the square root of the entries: too few clusters miss badly,
    since a medoid then speaks for prompts that have little to do with it. With `device="auto"` the
    vectors are searched on a GPU where faiss has one.
    Raises `BankError` for an empty bank or an entry without the feature.
    """
    if not len(bank):
        raise BankError("an empty bank cannot be indexed")
    vectors = _unit(np.stack([entry.feature(feature) for entry in bank]))
    count = min(len(bank), clusters or math.ceil(2 * math.sqrt(len(bank))))
    distances = np.clip(1 - vectors @ vectors.T, 0, 2).astype(np.float32)
    if count == len(bank):
        medoids, labels = np.arange(count), np.arange(count)
    else:
        found = kmedoids.fasterpam(distances, count, random_state=seed)
        medoids, labels = found.medoids, found.labels
    ids = [entry.entry_id for entry in bank]
    return BankIndex(
        feature=feature,
        medoids=tuple(ids[medoid] for medoid in medoids),
        members=tuple(
            tuple(ids[place] for place in np.flatnonzero(labels == cluster))
            for cluster in range(len(medoids))
        ),
        mean_distance=float(distances[np.arange(len(ids)), medoids[labels]].mean()),
        entry_ids=tuple(ids),
        _vectors=_faiss_index(vectors, device),
        _medoid_vectors=vectors[medoids],
    )


def _faiss_index(vectors: np.ndarray, device: Device) -> Any:
    """Return a faiss index of the vectors by inner product, on the GPUs when there are any."""
    flat: Any = faiss.IndexFlatIP(vectors.shape[1])
    # faiss built without CUDA has neither function nor devices.
    if device == "auto" and hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus():
        flat = faiss.index_cpu_to_all_gpus(flat)
    flat.add(vectors)
    return flat


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
