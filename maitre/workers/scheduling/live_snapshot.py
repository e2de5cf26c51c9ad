"""The snapshot of the live system for a policy; the simulator builds the same kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from maitre.requests.request import RequestState, TuningRequest
from maitre.requests.store import QueuedWork
from maitre.scheduling.cluster import Cluster, ModelSpec
from maitre.scheduling.snapshot import (
    Completion,
    JobView,
    LookupView,
    Pool,
    RunningJob,
    Snapshot,
    Worker,
    WorkerState,
)
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.pool.protocol import ClaimView

_FINISHING_S = 0.3
"""About how long a worker stays busy after the end of its run: it removes the checkpoint."""


def live_snapshot(
    time_s: float,
    cluster: Cluster,
    requests: Sequence[TuningRequest],
    workers: Sequence[PoolWorker],
    waiting: Mapping[str, int],
) -> Snapshot:
    """Return the cluster at `time_s` (wall clock, s since the epoch).

    `requests` are the open requests, and ended ones to learn from. `waiting` are the runs that have
    lost their worker and wait for another one, each with the iterations that it has done.
    """
    pools = {
        name: _pool(time_s, model, requests, workers, waiting)
        for name, model in cluster.models.items()
    }
    return Snapshot(time_s, cluster, pools, {}, len(workers), frozenset(cluster.models))


def job_view(request: TuningRequest, model: ModelSpec, done: float = 0.0) -> JobView:
    """Return a request as a job.

    A lookup that saves no iterations, which only improves the result, adds the iterations that its
    time is worth.
    """
    extra = lookup_iterations(request, model)
    return JobView(
        job_id=request.request_id,
        base_model=request.base_model,
        submitted_s=request.submitted_at.timestamp(),
        deadline_s=request.deadline_at.timestamp(),
        iterations_cold_estimate=request.iterations_cold + extra,
        iterations_bank_estimate=request.iterations_bank + extra,
        iterations_done=done + extra if done else 0.0,
        started=done > 0,
    )


def lookup_iterations(request: TuningRequest | QueuedWork, model: ModelSpec) -> float:
    """Return the iterations that the time of the lookup is worth, where it saves none itself."""
    if request.lookup and request.iterations_bank >= request.iterations_cold:
        return model.lookup_s / model.iteration_s[model.worker_counts[0]]
    return 0.0


def _pool(
    time_s: float,
    model: ModelSpec,
    requests: Sequence[TuningRequest],
    workers: Sequence[PoolWorker],
    waiting: Mapping[str, int],
) -> Pool:
    own = [worker for worker in workers if worker.base_model == model.name]
    asked = sorted(
        (r for r in requests if r.base_model == model.name), key=lambda r: r.submitted_at
    )
    queued: dict[str, JobView] = {}
    lookups: dict[str, LookupView] = {}
    running: dict[str, RunningJob] = {}
    strayed: list[TuningRequest] = []
    kept: set[str] = set()
    runs = {request.run_id: request for request in asked if request.run_id}
    seen = {worker.name: _worker(worker, model, time_s) for worker in own}
    can_be_handed = set()
    for worker in own:
        run = runs.get(worker.view.claim.run_id) if worker.view and worker.view.claim else None
        if run is not None and run.state.is_final and not worker.is_draining:
            seen[worker.name] = replace(
                seen[worker.name], state="loading", ready_s=time_s + _FINISHING_S
            )
        elif run is None and seen[worker.name].state != "loading":
            can_be_handed.add(worker.name)
    by_run = _claims(own)
    for request in asked:
        if request.state.is_final:
            continue
        held = by_run.get(request.run_id or "")
        if held is not None:
            names, claim = held
            job = job_view(request, model, claim.iteration)
            if claim.phase == "lookup" and len(names) == 1:
                [name] = names
                began_s = claim.marks.get("lookup", time_s)
                lookups[job.job_id] = LookupView(job, name, max(time_s, began_s + model.lookup_s))
                seen[name] = _in_state(seen[name], "lookup")
            else:
                each_s = _iteration_s(model, names)
                running[job.job_id] = RunningJob(job, tuple(names), time_s, each_s)
        elif request.run_id in waiting:
            queued[request.request_id] = job_view(request, model, waiting[request.run_id or ""])
        elif _is_to_start(request, time_s):
            queued[request.request_id] = job_view(request, model)
        elif names := [
            name for name in _reserved_workers(request, time_s) if name in can_be_handed
        ]:
            # Its run is on its way to them, or they have claimed it and the row is older.
            seen.update({name: _in_state(seen[name], "running") for name in names})
            kept.update(names)
            job = job_view(request, model)
            running[job.job_id] = RunningJob(job, tuple(names), time_s, _iteration_s(model, names))
        elif request.state is RequestState.LAUNCHED and _is_no_longer_held(request, time_s):
            strayed.append(request)
    can_be_handed -= kept
    for request in strayed:
        # Its run is on a worker that does not answer, or in Dagster's queue, which gives it the
        # first idle worker: one is left for it. Without such a worker the request waits.
        job = job_view(request, model)
        if left := _left_for_another(seen, can_be_handed):
            can_be_handed.remove(left)
            seen[left] = _in_state(seen[left], "running")
            running[job.job_id] = RunningJob(job, (left,), time_s, _iteration_s(model, [left]))
        else:
            queued[job.job_id] = job
    return Pool(
        model,
        queued,
        lookups,
        running,
        seen,
        {name: worker for name, worker in seen.items() if worker.state == "idle"},
        [request.submitted_at.timestamp() for request in asked],
        _completions(asked),
    )


def _is_to_start(request: TuningRequest, time_s: float) -> bool:
    """Return whether it is queued, or its hold has run out without a run."""
    return request.state is RequestState.QUEUED or (
        request.state is RequestState.STARTING and _is_no_longer_held(request, time_s)
    )


def _is_no_longer_held(request: TuningRequest, time_s: float) -> bool:
    held_until = request.held_until
    return held_until is not None and held_until.timestamp() < time_s


def _reserved_workers(request: TuningRequest, time_s: float) -> list[str]:
    """Return the workers that are reserved for a request's run; none once its hold has run out."""
    return [] if _is_no_longer_held(request, time_s) else request.handed_to


def _left_for_another(seen: Mapping[str, Worker], can_be_handed: Iterable[str]) -> str | None:
    """Return a worker that may have an unknown run: one that does not answer, else an idle one."""
    names = sorted(can_be_handed, key=lambda name: (seen[name].state == "idle", name))
    return names[0] if names else None


def _iteration_s(model: ModelSpec, workers: Sequence[str]) -> float:
    """Return the seconds per iteration of so many workers, or of the next smaller known number."""
    known = [count for count in model.worker_counts if count <= len(workers)]
    return model.iteration_s[known[-1] if known else model.worker_counts[0]]


def _claims(workers: Iterable[PoolWorker]) -> dict[str, tuple[list[str], ClaimView]]:
    """Return for each run the workers that hold it, by rank, and the claim of the first one."""
    held: dict[str, list[tuple[ClaimView, str]]] = {}
    for worker in workers:
        if worker.view is not None and worker.view.claim is not None:
            claim = worker.view.claim
            held.setdefault(claim.run_id, []).append((claim, worker.name))
    found = {}
    for run_id, claims in held.items():
        claims.sort(key=lambda one: one[0].rank)
        if claims[0][0].rank == 0:
            found[run_id] = [name for _, name in claims], claims[0][0]
    return found


def _worker(worker: PoolWorker, model: ModelSpec, time_s: float) -> Worker:
    view = worker.view
    ready_s = worker.started_s + model.warm_up_s
    if view is None:
        has_answered = worker.has_answered
        if has_answered is None:
            has_answered = bool(worker.url) and time_s > ready_s
        # A worker that has never answered still starts: none is started in its place. A worker
        # that has answered before, and does not now, cannot be used.
        state: WorkerState = "running" if has_answered else "loading"
        again_s = time_s + model.warm_up_s if worker.failing else time_s
        return Worker(worker.name, model.name, state, worker.started_s, max(ready_s, again_s))
    states: dict[str, WorkerState] = {"loading": "loading", "idle": "idle"}
    return Worker(worker.name, model.name, states.get(view.state, "running"), view.since_s, ready_s)


def _in_state(worker: Worker, state: WorkerState) -> Worker:
    return replace(worker, state=state)


def _completions(requests: Iterable[TuningRequest]) -> list[Completion]:
    """Return the finished runs. They have no target score: each takes its estimated iterations."""
    done = [
        Completion(
            finished_s=request.finished_at.timestamp(),
            banked=False,
            iterations_estimate=request.iterations_cold,
            iterations=request.iterations_cold,
            violated=request.finished_at > request.deadline_at,
        )
        for request in requests
        if request.state is RequestState.DONE and request.finished_at is not None
    ]
    return sorted(done, key=lambda completion: completion.finished_s)
