"""What a policy can ask for.

The actions of one decision are carried out at once, in order, and each sees the effects of those
before it. A worker is named by its id (a key of `Pool.workers` or `Snapshot.blank`), a job by its
`job_id`. In the simulator an action that cannot be carried out raises `PolicyError`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Hold `count` more GPUs and load `base_model` on each; with `None`, hold them blank.

    `count` is from 1 to `Snapshot.cold`. Each worker costs from now until its `StopWorker`, and is
    ready (idle) after its model's `warm_up_s` seconds. Its id appears in the next snapshot.
    """

    base_model: str | None
    count: int


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load `base_model` on a worker that is blank, or idle in any pool; its old model is dropped.

    The worker is ready after the new model's `warm_up_s` seconds. It stays held, and costs.
    """

    worker: str
    base_model: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Give the GPU of an idle or blank worker back; a loading or busy worker cannot be stopped."""

    worker: str


@dataclass(frozen=True, slots=True)
class StartLookup:
    """Look for the queued job's start in the prompt bank, on one idle worker of its model.

    This takes the model's `lookup_s` seconds. Then the job is queued again, with `lookup_ended`,
    and needs its bank iterations instead of its cold ones. A job can be looked up once, before it
    has started.
    """

    job_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start the queued job, or resume it after a preemption, on idle workers of its model.

    The number of workers is a key of `ModelSpec.iteration_s`. A resumed job makes no progress for
    the model's `resize_s` seconds.
    """

    job_id: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResizeJob:
    """Move the running job to these workers: any of its own, and idle ones of its model.

    The job keeps its iterations and makes none for the model's `resize_s` seconds. The number of
    workers is a key of `ModelSpec.iteration_s`; own workers that are left out become idle.
    """

    job_id: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreemptJob:
    """Put the running job back in the queue and keep its iterations; its workers become idle."""

    job_id: str


@dataclass(frozen=True, slots=True)
class RejectJob:
    """Refuse the queued job for good; it counts as a violation. `reason` is for its owner."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Ask to be called at `time_s` (seconds, as `Snapshot.time_s`) even if nothing happens before.

    The earliest of several counts. Each decision drops the request of the one before.
    """

    time_s: float


Action = (
    StartWorkers
    | LoadModel
    | StopWorker
    | StartLookup
    | StartJob
    | ResizeJob
    | PreemptJob
    | RejectJob
    | WaitUntil
)
