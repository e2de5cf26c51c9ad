"""What a policy sees at one moment: queue, workers, progress, and what has been observed so far.

Times (`*_s`) are seconds on the clock of `Snapshot.time_s`; work is counted in iterations. A worker
is one GPU that is held. Its states: `blank` (no model), `loading` (until `ready_s`), `idle` (ready
and free), `lookup` and `running` (busy).


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

    The estimates are the iterations of the whole job: from a cold start, and from the start that a
    lookup in the prompt bank finds. `iterations_done` is the progress kept from earlier starts,
    `started` whether there was one. `lookup_ended` says that a lookup has ended, so that the bank's
    estimate counts.
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
        """Return the estimate that counts: the bank's after a lookup, else the cold one."""
        return self.iterations_bank_estimate if self.lookup_ended else self.iterations_cold_estimate


@dataclass(frozen=True, slots=True)
class LookupView:
    """A job that `worker` looks up in the prompt bank until `ends_s`."""

    job: JobView
    worker: str
    ends_s: float


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job on its workers, which take `iteration_s` seconds per iteration together.

    `job.iterations_done` is its progress at `progress_from_s`; before that time (it is still being
    resized or resumed) it makes no progress.
    """

    job: JobView
    workers: tuple[str, ...]
    progress_from_s: float
    iteration_s: float

    def iterations_done(self, time_s: float) -> float:
        """Return the iterations done at `time_s`, if the job has not finished before."""
        elapsed_s = max(0.0, time_s - self.progress_from_s)
        return self.job.iterations_done + elapsed_s / self.iteration_s


@dataclass(frozen=True, slots=True)
class Worker:
    """A held GPU: the model that it holds or loads, its state, and since when it has that state.

    `ready_s` is when its model is, or was, loaded; infinite for a blank worker.
    """

    worker: str
    base_model: str | None
    state: WorkerState
    since_s: float
    ready_s: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished job: the estimate that counted and the iterations that it took in all.

    `banked` says whether the estimate was the bank's (a lookup had ended), `violated` whether the
    job finished after its deadline. A policy can learn from these how wrong estimates are.
    """

    finished_s: float
    banked: bool
    iterations_estimate: float
    iterations: float
    violated: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything of one base model.

    A job is in one of `queued`, `lookups` and `running`, by `job_id`. `workers` are all that hold
    or load the model, by id; `idle` are the workers that are ready and free. `arrivals_s` are the
    submissions so far and `completions` the finished jobs, both oldest first.
    """

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
    """The cluster at `time_s`.

    `pools` has one pool per base model of the cluster, by name, empty ones included. `blank` are
    the workers that hold no model, by id; `held` counts the workers of all pools and the blank
    ones.
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
        """Return how many GPUs are not held; 0 if more are held than the cluster file names."""
        return max(0, self.cluster.gpus - self.held)
