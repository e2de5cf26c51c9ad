"""Replays an event log against the contract: violations and cost, and every rule that it breaks.

Independent of the simulator: it knows only `events.csv`, `jobs.csv` and the cluster.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from maitre.scheduling.cluster import Cluster
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job

_TOLERANCE_MS = 1.5  # times in the log are rounded to 1 ms


@dataclass(slots=True)
class _WorkerState:
    """One worker at the present row."""

    model: str = ""
    ready: bool = False
    ready_ms: float = 0.0
    loading: bool = False
    task: str = ""
    started_ms: int = 0


@dataclass(slots=True)
class _JobState:
    """One job at the present row; `need` and `done` in iterations."""

    job: Job
    need: float
    workers: tuple[str, ...] = ()
    from_ms: float = 0.0
    done: float = 0.0
    started: bool = False
    lookup_on: str = ""
    lookup_ms: int = 0
    preempted_ms: int | None = None
    ended: str = ""
    end_ms: int = 0


@dataclass(frozen=True)
class Replay:
    """What a log amounts to. `problems` lists broken rules; a log that keeps them all has none."""

    problems: list[str]
    jobs: int
    finished: int
    late: int
    rejected: int
    unfinished: int
    violations: int
    gpu_hours: float
    cost: float
    held: list[tuple[int, int]] = field(repr=False)  # (time_ms, workers held from then)
    used: list[tuple[int, int]] = field(repr=False)  # (time_ms, workers busy from then)


def replay(events: Iterable[Event], jobs: Sequence[Job], cluster: Cluster) -> Replay:
    """Replay `events`; list broken rules in `problems`, by row number, instead of raising."""
    return _Replayer(jobs, cluster).run(events)


class _Replayer:
    """Goes through a log row by row."""

    def __init__(self, jobs: Sequence[Job], cluster: Cluster) -> None:
        self.cluster = cluster
        self.jobs = {job.job_id: _JobState(job, job.iterations_cold) for job in jobs}
        self.workers: dict[str, _WorkerState] = {}
        self.stopped: set[str] = set()
        self.problems: list[str] = []
        self.row = 1
        self.now = 0
        self.cost_ms = 0
        self.busy = 0
        self.held_steps: list[tuple[int, int]] = []
        self.used_steps: list[tuple[int, int]] = []

    def run(self, events: Iterable[Event]) -> Replay:
        for self.row, event in enumerate(events, start=2):
            if event.time_ms < self.now:
                self.note_problem("time goes backwards")
            self.now = max(self.now, event.time_ms)
            if event.job_id:
                self.job_event(event)
            else:
                self.worker_event(event)
            _step(self.held_steps, self.now, len(self.workers))
            _step(self.used_steps, self.now, self.busy)
        return self.result()

    # -- jobs ---------------------------------------------------------------------------------

    def job_event(self, event: Event) -> None:
        state = self.jobs.get(event.job_id)
        if state is None:
            self.note_problem(f"{event.kind}: job {event.job_id} is not in jobs.csv")
            return
        if state.ended:
            self.note_problem(f"{event.kind}: job {event.job_id} has ended")
            return
        if event.base_model and event.base_model != state.job.base_model:
            self.note_problem(
                f"job {event.job_id} is of {state.job.base_model}, not {event.base_model}"
            )
        if self.now < state.job.submitted_s * 1000 - _TOLERANCE_MS:
            self.note_problem(f"{event.kind}: job {event.job_id} is not submitted yet")
        names = tuple(event.worker.split(";")) if event.worker else ()
        handler = {
            "lookup_start": self.lookup_start,
            "lookup_end": self.lookup_end,
            "job_start": self.job_start,
            "job_resize": self.job_resize,
            "job_preempt": self.job_preempt,
            "job_finish": self.job_finish,
            "job_reject": self.job_reject,
        }.get(event.kind)
        if handler is None:
            self.note_problem(f"{event.kind} with a job")
        else:
            handler(state, names)

    def lookup_start(self, state: _JobState, names: tuple[str, ...]) -> None:
        if state.workers or state.lookup_on:
            self.note_problem(f"job {state.job.job_id} looks up while on workers")
        if len(names) != 1:
            self.note_problem(f"lookup of {state.job.job_id} needs one worker")
            return
        self.take(state, names)
        state.lookup_on, state.lookup_ms = names[0], self.now

    def lookup_end(self, state: _JobState, names: tuple[str, ...]) -> None:
        model = self.cluster.models[state.job.base_model]
        if not state.lookup_on or (names and names != (state.lookup_on,)):
            self.note_problem(f"lookup of {state.job.job_id} ends but did not start there")
            return
        if abs(self.now - state.lookup_ms - model.lookup_s * 1000) > _TOLERANCE_MS:
            self.note_problem(f"lookup of {state.job.job_id} did not take lookup_s")
        self.free(state, (state.lookup_on,))
        state.lookup_on = ""
        if not state.started:
            state.need = state.job.iterations_bank

    def run_on(self, state: _JobState, names: tuple[str, ...], penalty_s: float) -> None:
        model = self.cluster.models[state.job.base_model]
        if len(names) not in model.iteration_s:
            self.note_problem(
                f"job {state.job.job_id} on {len(names)} workers, which iteration_s lacks"
            )
        self.take(state, names)
        state.workers = names
        state.from_ms = self.now + penalty_s * 1000
        state.started = True

    def job_start(self, state: _JobState, names: tuple[str, ...]) -> None:
        if state.workers or state.lookup_on:
            self.note_problem(f"job {state.job.job_id} starts while on workers")
            self.free(state, state.workers)
        model = self.cluster.models[state.job.base_model]
        self.run_on(state, names, model.resize_s if state.started else 0.0)

    def pause(self, state: _JobState, kind: str) -> bool:
        if not state.workers:
            self.note_problem(f"{kind}: job {state.job.job_id} is not running")
            return False
        iteration_ms = self.iteration_ms(state)
        state.done += max(0.0, self.now - state.from_ms) / iteration_ms
        if (state.done - state.need) * iteration_ms > _TOLERANCE_MS:
            self.note_problem(f"{kind}: job {state.job.job_id} was done before and did not finish")
        self.free(state, state.workers)
        return True

    def iteration_ms(self, state: _JobState) -> float:
        model = self.cluster.models[state.job.base_model]
        return model.iteration_s.get(len(state.workers), float("inf")) * 1000

    def job_resize(self, state: _JobState, names: tuple[str, ...]) -> None:
        if self.pause(state, "job_resize"):
            model = self.cluster.models[state.job.base_model]
            self.run_on(state, names, model.resize_s)

    def job_preempt(self, state: _JobState, names: tuple[str, ...]) -> None:
        if names and state.workers and set(names) != set(state.workers):
            self.note_problem(f"job_preempt: job {state.job.job_id} is on other workers")
        if self.pause(state, "job_preempt"):
            state.workers = ()
            state.preempted_ms = self.now

    def job_finish(self, state: _JobState, names: tuple[str, ...]) -> None:
        if names and state.workers and set(names) != set(state.workers):
            self.note_problem(f"job_finish: job {state.job.job_id} is on other workers")
        iteration_ms = self.iteration_ms(state) if state.workers else float("inf")
        if self.pause(state, "job_finish"):
            if (state.need - state.done) * iteration_ms > _TOLERANCE_MS:
                self.note_problem(
                    f"job {state.job.job_id} finishes after {state.done:.3f} "
                    f"of {state.need:.3f} iterations"
                )
            state.workers = ()
        state.ended, state.end_ms = "finished", self.now

    def job_reject(self, state: _JobState, names: tuple[str, ...]) -> None:
        if names:
            self.note_problem(f"job_reject of {state.job.job_id} names workers")
        if state.workers or state.lookup_on:
            self.note_problem(f"job {state.job.job_id} is rejected while on workers")
            self.free(state, state.workers or (state.lookup_on,))
        state.ended, state.end_ms = "rejected", self.now

    # -- workers ----------------------------------------------------------------------------

    def note_problem(self, problem: str) -> None:
        """Record a broken rule of the present row."""
        if len(self.problems) < 1000:
            self.problems.append(f"row {self.row}: {problem}")

    def worker_event(self, event: Event) -> None:
        """Check one row without a job."""
        name = event.worker
        if not name or ";" in name:
            self.note_problem(f"{event.kind} needs one worker, found {name!r}")
            return
        if event.kind == "worker_start":
            self.start(name, event.base_model)
            return
        worker = self.workers.get(name)
        if worker is None:
            self.note_problem(f"{event.kind}: worker {name} is not held")
        elif event.kind == "worker_load":
            self.load(name, worker, event.base_model)
        elif event.kind == "worker_ready":
            if not worker.loading or abs(self.now - worker.ready_ms) > _TOLERANCE_MS:
                self.note_problem(f"worker {name} is ready but not warm_up_s after a worker_load")
            if event.base_model and event.base_model != worker.model:
                self.note_problem(
                    f"worker {name} is ready with {event.base_model}, loaded {worker.model}"
                )
            worker.loading, worker.ready = False, True
        elif event.kind == "worker_stop":
            if worker.task:
                self.note_problem(f"worker {name} stops while busy with {worker.task}")
                self.busy -= 1
            self.cost_ms += self.now - worker.started_ms
            del self.workers[name]
            self.stopped.add(name)
        else:
            self.note_problem(f"{event.kind} without a job")

    def start(self, name: str, base_model: str) -> None:
        """Record that a worker is held from now on."""
        if name in self.workers or name in self.stopped:
            self.note_problem(f"worker {name} starts twice")
            return
        self.workers[name] = _WorkerState(model=base_model, started_ms=self.now)
        if len(self.workers) > self.cluster.gpus:
            self.note_problem(f"{len(self.workers)} workers on {self.cluster.gpus} GPUs")

    def load(self, name: str, worker: _WorkerState, base_model: str) -> None:
        """Record that a worker starts to load a model."""
        if worker.task:
            self.note_problem(f"worker {name} loads while busy with {worker.task}")
        model = self.cluster.models.get(base_model)
        if model is None:
            self.note_problem(f"worker {name} loads unknown model {base_model!r}")
            return
        worker.model, worker.ready, worker.loading = base_model, False, True
        worker.ready_ms = self.now + model.warm_up_s * 1000

    def take(self, state: _JobState, names: tuple[str, ...]) -> None:
        """Give a job its workers, which must be ready, free and of its model."""
        for name in names:
            worker = self.workers.get(name)
            if worker is None:
                self.note_problem(f"job {state.job.job_id} uses worker {name}, which is not held")
                continue
            if not worker.ready:
                self.note_problem(f"job {state.job.job_id} uses worker {name} before it is ready")
            if worker.task:
                self.note_problem(
                    f"job {state.job.job_id} uses worker {name}, busy with {worker.task}"
                )
            else:
                self.busy += 1
            if worker.model != state.job.base_model:
                self.note_problem(
                    f"job {state.job.job_id} uses worker {name} of model {worker.model}"
                )
            worker.task = state.job.job_id
        if len(set(names)) != len(names):
            self.note_problem(f"job {state.job.job_id} names a worker twice")

    def free(self, state: _JobState, names: tuple[str, ...]) -> None:
        """Release a job's workers."""
        for name in names:
            worker = self.workers.get(name)
            if worker is not None and worker.task == state.job.job_id:
                worker.task = ""
                self.busy -= 1

    # -- the end ------------------------------------------------------------------------------

    def result(self) -> Replay:
        for name, worker in self.workers.items():
            self.note_problem(f"worker {name} is never stopped")
            self.cost_ms += self.now - worker.started_ms
        for state in self.jobs.values():
            if not state.ended and (
                state.workers or state.lookup_on or state.preempted_ms == self.now
            ):
                self.note_problem(
                    f"job {state.job.job_id} is stopped by the end of the log, with work left"
                )
        states = self.jobs.values()
        finished = [state for state in states if state.ended == "finished"]
        late = sum(state.end_ms > state.job.deadline_s * 1000 + 1e-6 for state in finished)
        rejected = sum(state.ended == "rejected" for state in states)
        unfinished = len(self.jobs) - len(finished) - rejected
        gpu_hours = self.cost_ms / 3_600_000
        return Replay(
            problems=self.problems,
            jobs=len(self.jobs),
            finished=len(finished),
            late=late,
            rejected=rejected,
            unfinished=unfinished,
            violations=late + rejected + unfinished,
            gpu_hours=gpu_hours,
            cost=gpu_hours * self.cluster.gpu_price_per_hour,
            held=self.held_steps,
            used=self.used_steps,
        )


def _step(steps: list[tuple[int, int]], time_ms: int, value: int) -> None:
    """Record that a step function has this `value` from `time_ms` on."""
    if steps and steps[-1][0] == time_ms:
        steps[-1] = (time_ms, value)
    elif not steps or steps[-1][1] != value:
        steps.append((time_ms, value))
