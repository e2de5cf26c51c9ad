"""What a policy sees at one moment: queue, workers, progress, and what has been observed so far.

The simulator and the live system build the same objects. Collections are read-only views that hold
until the policy returns; jobs and workers are values, replaced when they change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from maitre.scheduling.cluster import Cluster, ModelSpec

WorkerState = Literal["blank", "loading", "idle", "lookup", "running"]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as a policy sees it: estimates, never true counts.

    `iterations_done` is progress kept from earlier starts; `banked` says that its count is the
    bank's (a lookup ended before its first start); `lookup_ended` that a lookup did end.
    """

    job_id: str
    base_model: str
    submitted_s: float
    deadline_s: float
    iterations_cold_estimate: float
    iterations_bank_estimate: float
    iterations_done: float = 0.0
    started: bool = False
    lookup_ended: bool = False

    @property
    def iterations_estimate(self) -> float:
        """The estimated total for the start that this job has, or would have now."""
        return self.iterations_bank_estimate if self.lookup_ended else self.iterations_cold_estimate


@dataclass(frozen=True, slots=True)
class LookupView:
    """A job whose prompt-bank lookup is under way on `worker` and ends at `ends_s`."""

    job: JobView
    worker: str
    ends_s: float


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job on its workers. `job.iterations_done` is its progress at `progress_from_s`.

    Before `progress_from_s` (the resize cost) there is no progress.
    """

    job: JobView
    workers: tuple[str, ...]
    progress_from_s: float
    iteration_s: float

    def iterations_done(self, time_s: float) -> float:
        """Progress at `time_s`."""
        elapsed_s = max(0.0, time_s - self.progress_from_s)
        return self.job.iterations_done + elapsed_s / self.iteration_s


@dataclass(frozen=True, slots=True)
class Worker:
    """A held GPU. `since_s`: when it took its state; `ready_s`: when its model is loaded."""

    worker: str
    base_model: str | None
    state: WorkerState
    since_s: float
    ready_s: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished job: what was estimated, what it took. Policies learn their error from these."""

    finished_s: float
    banked: bool
    iterations_estimate: float
    iterations: float
    violated: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything of one base model: its jobs, its warm (or warming) workers, its past."""

    model: ModelSpec
    queued: Mapping[str, JobView]
    lookups: Mapping[str, LookupView]
    running: Mapping[str, RunningJob]
    workers: Mapping[str, Worker]
    idle: Mapping[str, Worker]
    arrivals_s: Sequence[float]
    completions: Sequence[Completion]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at `time_s`. `blank` workers are held without a model; `held` counts all.

    `changed` names the base models in which anything happened since the last decision.
    """

    time_s: float
    cluster: Cluster
    pools: Mapping[str, Pool]
    blank: Mapping[str, Worker]
    held: int
    changed: frozenset[str]

    @property
    def cold(self) -> int:
        """GPUs that are not held; none where more are held than the cluster is said to have."""
        return max(0, self.cluster.gpus - self.held)
