"""Replays what an event log says of workers: held, loading, ready, busy; and every rule broken."""

from collections.abc import Sequence
from dataclasses import dataclass

from maitre.scheduling.cluster import Cluster
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job

TOLERANCE_MS = 1.5  # times in the log are rounded to 1 ms


@dataclass(slots=True)
class WorkerState:
    """One worker at the present row."""

    model: str = ""
    ready: bool = False
    ready_ms: float = 0.0
    loading: bool = False
    task: str = ""
    started_ms: int = 0


@dataclass(slots=True)
class JobState:
    """One job at the present row; `need` and `done` in iterations."""

    job: Job
    need: float
    workers: tuple[str, ...] = ()
    from_ms: float = 0.0
    done: float = 0.0
    started: bool = False
    lookup_on: str = ""
    lookup_ms: int = 0
    ended: str = ""
    end_ms: int = 0


class WorkerReplay:
    """The workers of a log, and the problems found; times in milliseconds."""

    def __init__(self, jobs: Sequence[Job], cluster: Cluster) -> None:
        self.cluster = cluster
        self.jobs = {job.job_id: JobState(job, job.iterations_cold) for job in jobs}
        self.workers: dict[str, WorkerState] = {}
        self.gone: set[str] = set()
        self.problems: list[str] = []
        self.row = 1
        self.now = 0
        self.cost_ms = 0
        self.busy = 0

    def say(self, problem: str) -> None:
        """Note a broken rule of the present row."""
        if len(self.problems) < 1000:
            self.problems.append(f"row {self.row}: {problem}")

    def worker_event(self, event: Event) -> None:
        """One row without a job."""
        name = event.worker
        if not name or ";" in name:
            self.say(f"{event.kind} needs one worker, found {name!r}")
            return
        if event.kind == "worker_start":
            self.start(name, event.base_model)
            return
        worker = self.workers.get(name)
        if worker is None:
            self.say(f"{event.kind}: worker {name} is not held")
        elif event.kind == "worker_load":
            self.load(name, worker, event.base_model)
        elif event.kind == "worker_ready":
            if not worker.loading or abs(self.now - worker.ready_ms) > TOLERANCE_MS:
                self.say(f"worker {name} is ready but not warm_up_s after a worker_load")
            if event.base_model and event.base_model != worker.model:
                self.say(f"worker {name} is ready with {event.base_model}, loaded {worker.model}")
            worker.loading, worker.ready = False, True
        elif event.kind == "worker_stop":
            if worker.task:
                self.say(f"worker {name} stops while busy with {worker.task}")
                self.busy -= 1
            self.cost_ms += self.now - worker.started_ms
            del self.workers[name]
            self.gone.add(name)
        else:
            self.say(f"{event.kind} without a job")

    def start(self, name: str, base_model: str) -> None:
        """A worker is held from now on."""
        if name in self.workers or name in self.gone:
            self.say(f"worker {name} starts twice")
            return
        self.workers[name] = WorkerState(model=base_model, started_ms=self.now)
        if len(self.workers) > self.cluster.gpus:
            self.say(f"{len(self.workers)} workers on {self.cluster.gpus} GPUs")

    def load(self, name: str, worker: WorkerState, base_model: str) -> None:
        """A worker starts to load a model."""
        if worker.task:
            self.say(f"worker {name} loads while busy with {worker.task}")
        model = self.cluster.models.get(base_model)
        if model is None:
            self.say(f"worker {name} loads unknown model {base_model!r}")
            return
        worker.model, worker.ready, worker.loading = base_model, False, True
        worker.ready_ms = self.now + model.warm_up_s * 1000

    def take(self, state: JobState, names: tuple[str, ...]) -> None:
        """A job takes workers, which must be ready, free and of its model."""
        for name in names:
            worker = self.workers.get(name)
            if worker is None:
                self.say(f"job {state.job.job_id} uses worker {name}, which is not held")
                continue
            if not worker.ready:
                self.say(f"job {state.job.job_id} uses worker {name} before it is ready")
            if worker.task:
                self.say(f"job {state.job.job_id} uses worker {name}, busy with {worker.task}")
            else:
                self.busy += 1
            if worker.model != state.job.base_model:
                self.say(f"job {state.job.job_id} uses worker {name} of model {worker.model}")
            worker.task = state.job.job_id
        if len(set(names)) != len(names):
            self.say(f"job {state.job.job_id} names a worker twice")

    def free(self, state: JobState, names: tuple[str, ...]) -> None:
        """A job leaves its workers."""
        for name in names:
            worker = self.workers.get(name)
            if worker is not None and worker.task == state.job.job_id:
                worker.task = ""
                self.busy -= 1
