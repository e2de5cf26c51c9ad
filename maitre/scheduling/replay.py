"""Replays an event log against the contract: violations and cost, and every rule that it breaks.

Independent of the simulator: it knows only `events.csv`, `jobs.csv` and the cluster.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from maitre.scheduling.cluster import Cluster
from maitre.scheduling.events import Event
from maitre.scheduling.jobs import Job
from maitre.scheduling.replay_workers import TOLERANCE_MS, JobState, WorkerReplay


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
    """Replay `events`. Never raises for a broken rule: it stands in `problems`, by row number."""
    return _Replayer(jobs, cluster).run(events)


class _Replayer(WorkerReplay):
    """Goes through a log row by row."""

    def __init__(self, jobs: Sequence[Job], cluster: Cluster) -> None:
        super().__init__(jobs, cluster)
        self.held_steps: list[tuple[int, int]] = []
        self.used_steps: list[tuple[int, int]] = []

    def run(self, events: Iterable[Event]) -> Replay:
        for self.row, event in enumerate(events, start=2):
            if event.time_ms < self.now:
                self.say("time goes backwards")
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
            self.say(f"{event.kind}: job {event.job_id} is not in jobs.csv")
            return
        if state.ended:
            self.say(f"{event.kind}: job {event.job_id} has ended")
            return
        if event.base_model and event.base_model != state.job.base_model:
            self.say(f"job {event.job_id} is of {state.job.base_model}, not {event.base_model}")
        if self.now < state.job.submitted_s * 1000 - TOLERANCE_MS:
            self.say(f"{event.kind}: job {event.job_id} is not submitted yet")
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
            self.say(f"{event.kind} with a job")
        else:
            handler(state, names)

    def lookup_start(self, state: JobState, names: tuple[str, ...]) -> None:
        if state.workers or state.lookup_on:
            self.say(f"job {state.job.job_id} looks up while on workers")
        if len(names) != 1:
            self.say(f"lookup of {state.job.job_id} needs one worker")
            return
        self.take(state, names)
        state.lookup_on, state.lookup_ms = names[0], self.now

    def lookup_end(self, state: JobState, names: tuple[str, ...]) -> None:
        model = self.cluster.models[state.job.base_model]
        if not state.lookup_on or (names and names != (state.lookup_on,)):
            self.say(f"lookup of {state.job.job_id} ends but did not start there")
            return
        if abs(self.now - state.lookup_ms - model.lookup_s * 1000) > TOLERANCE_MS:
            self.say(f"lookup of {state.job.job_id} did not take lookup_s")
        self.free(state, (state.lookup_on,))
        state.lookup_on = ""
        if not state.started:
            state.need = state.job.iterations_bank

    def begin(self, state: JobState, names: tuple[str, ...], penalty_s: float) -> None:
        model = self.cluster.models[state.job.base_model]
        if len(names) not in model.iteration_s:
            self.say(f"job {state.job.job_id} on {len(names)} workers, which iteration_s lacks")
        self.take(state, names)
        state.workers = names
        state.from_ms = self.now + penalty_s * 1000
        state.started = True

    def job_start(self, state: JobState, names: tuple[str, ...]) -> None:
        if state.workers or state.lookup_on:
            self.say(f"job {state.job.job_id} starts while on workers")
            self.free(state, state.workers)
        model = self.cluster.models[state.job.base_model]
        self.begin(state, names, model.resize_s if state.started else 0.0)

    def pause(self, state: JobState, kind: str) -> bool:
        if not state.workers:
            self.say(f"{kind}: job {state.job.job_id} is not running")
            return False
        iteration_ms = self.iteration_ms(state)
        state.done += max(0.0, self.now - state.from_ms) / iteration_ms
        if (state.done - state.need) * iteration_ms > TOLERANCE_MS:
            self.say(f"{kind}: job {state.job.job_id} was done before and did not finish")
        self.free(state, state.workers)
        return True

    def iteration_ms(self, state: JobState) -> float:
        model = self.cluster.models[state.job.base_model]
        return model.iteration_s.get(len(state.workers), float("inf")) * 1000

    def job_resize(self, state: JobState, names: tuple[str, ...]) -> None:
        if self.pause(state, "job_resize"):
            model = self.cluster.models[state.job.base_model]
            self.begin(state, names, model.resize_s)

    def job_preempt(self, state: JobState, names: tuple[str, ...]) -> None:
        if names and state.workers and set(names) != set(state.workers):
            self.say(f"job_preempt: job {state.job.job_id} is on other workers")
        if self.pause(state, "job_preempt"):
            state.workers = ()

    def job_finish(self, state: JobState, names: tuple[str, ...]) -> None:
        if names and state.workers and set(names) != set(state.workers):
            self.say(f"job_finish: job {state.job.job_id} is on other workers")
        iteration_ms = self.iteration_ms(state) if state.workers else float("inf")
        if self.pause(state, "job_finish"):
            if (state.need - state.done) * iteration_ms > TOLERANCE_MS:
                self.say(
                    f"job {state.job.job_id} finishes after {state.done:.3f} "
                    f"of {state.need:.3f} iterations"
                )
            state.workers = ()
        state.ended, state.end_ms = "finished", self.now

    def job_reject(self, state: JobState, names: tuple[str, ...]) -> None:
        if names:
            self.say(f"job_reject of {state.job.job_id} names workers")
        if state.workers or state.lookup_on:
            self.say(f"job {state.job.job_id} is rejected while on workers")
            self.free(state, state.workers or (state.lookup_on,))
        state.ended, state.end_ms = "rejected", self.now

    # -- the end ------------------------------------------------------------------------------

    def result(self) -> Replay:
        for name, worker in self.workers.items():
            self.say(f"worker {name} is never stopped")
            self.cost_ms += self.now - worker.started_ms
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
    """Note that a step function takes `value` from `time_ms`."""
    if steps and steps[-1][0] == time_ms:
        steps[-1] = (time_ms, value)
    elif not steps or steps[-1][1] != value:
        steps.append((time_ms, value))
