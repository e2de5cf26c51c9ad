"""What a policy can ask for. Actions of one decision take effect at once, in order."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Hold `count` more GPUs and load `base_model` on them (`None`: hold them blank)."""

    base_model: str | None
    count: int


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load `base_model` on a held blank or idle worker; what it held is dropped."""

    worker: str
    base_model: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Give an idle or blank worker's GPU back."""

    worker: str


@dataclass(frozen=True, slots=True)
class StartLookup:
    """Look the queued job up in the prompt bank, on one idle worker of its model."""

    job_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start, or resume, the queued job on idle workers of its model."""

    job_id: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResizeJob:
    """Move the running job to a new set of workers: any of its own and idle ones of its model."""

    job_id: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreemptJob:
    """Stop the running job, keep its progress, and put it back in the queue."""

    job_id: str


@dataclass(frozen=True, slots=True)
class RejectJob:
    """Refuse the queued job for good; it counts as a violation. `reason` is for its owner."""

    job_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Ask to be called at `time_s` at the latest, even if nothing happens before."""

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
