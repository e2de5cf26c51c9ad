"""What the policy sees of the live system: the same `Snapshot` that the simulator builds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from maitre.requests.request import RequestState, TuningRequest
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
"""About how long a worker whose run has ended stays busy: it tidies up."""


def live_snapshot(
    time_s: float,
    cluster: Cluster,
    requests: Sequence[TuningRequest],
    workers: Sequence[PoolWorker],
    waiting: Mapping[str, int],
) -> Snapshot:
    """The cluster at `time_s` (wall clock, s since the epoch).

    `requests` are the open ones and the ended ones to learn from; `waiting` maps the runs whose
    worker is gone, and which are to go on elsewhere, to the iterations that they have done.
    """
    pools = {
        name: _pool(time_s, model, requests, workers, waiting)
        for name, model in cluster.models.items()
    }
    return Snapshot(time_s, cluster, pools, {}, len(workers), frozenset(cluster.models))


def job_view(request: TuningRequest, model: ModelSpec, done: float = 0.0) -> JobView:
    """A request as a job. A lookup for the result's sake counts as the iterations of its time."""
    extra = 0.0
    if request.lookup and request.iterations_bank >= request.iterations_cold:
        extra = model.lookup_s / model.iteration_s[model.worker_counts[0]]
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
                seen[name] = _as(seen[name], "lookup")
            else:
                each_s = _iteration_s(model, names)
                running[job.job_id] = RunningJob(job, tuple(names), time_s, each_s)
        elif request.run_id in waiting:
            queued[request.request_id] = job_view(request, model, waiting[request.run_id or ""])
        elif _is_to_start(request, time_s):
            queued[request.request_id] = job_view(request, model)
        elif names := [name for name in _reserved(request, time_s) if name in can_be_handed]:
            # On its way, or claimed already and only the row does not say so yet.
            seen.update({name: _as(seen[name], "running") for name in names})
            kept.update(names)
            job = job_view(request, model)
            running[job.job_id] = RunningJob(job, tuple(names), time_s, _iteration_s(model, names))
        elif request.state is RequestState.LAUNCHED and _is_no_longer_held(request, time_s):
            strayed.append(request)
    can_be_handed -= kept
    for request in strayed:
        # On a worker that does not answer for now, or in Dagster's queue, which gives it the first
        # idle one: that is left for it. With none there it needs one as those do that wait here.
        job = job_view(request, model)
        if left := _left_for_another(seen, can_be_handed):
            can_be_handed.remove(left)
            seen[left] = _as(seen[left], "running")
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
    """Whether it waits; or was taken, and who took it made no run of it in time."""
    return request.state is RequestState.QUEUED or (
        request.state is RequestState.STARTING and _is_no_longer_held(request, time_s)
    )


def _is_no_longer_held(request: TuningRequest, time_s: float) -> bool:
    held_until = request.held_until
    return held_until is not None and held_until.timestamp() < time_s


def _reserved(request: TuningRequest, time_s: float) -> list[str]:
    """The workers that are kept for a request's run; one that did not go there waits for any."""
    return [] if _is_no_longer_held(request, time_s) else request.handed_to


def _left_for_another(seen: Mapping[str, Worker], can_be_handed: Iterable[str]) -> str | None:
    """A worker that nothing is known to be on: one that does not answer, else an idle one."""
    names = sorted(can_be_handed, key=lambda name: (seen[name].state == "idle", name))
    return names[0] if names else None


def _iteration_s(model: ModelSpec, workers: Sequence[str]) -> float:
    """Of as many workers, or of the most that are known below."""
    known = [count for count in model.worker_counts if count <= len(workers)]
    return model.iteration_s[known[-1] if known else model.worker_counts[0]]


def _claims(workers: Iterable[PoolWorker]) -> dict[str, tuple[list[str], ClaimView]]:
    """For each run the workers that hold it, by rank, and what the first of them says."""
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
        # One that has never answered still starts, or tries to: none is started in its place. One
        # that has, and does not now, is of no use.
        state: WorkerState = "running" if has_answered else "loading"
        again_s = time_s + model.warm_up_s if worker.failing else time_s
        return Worker(worker.name, model.name, state, worker.started_s, max(ready_s, again_s))
    states: dict[str, WorkerState] = {"loading": "loading", "idle": "idle"}
    return Worker(worker.name, model.name, states.get(view.state, "running"), view.since_s, ready_s)


def _as(worker: Worker, state: WorkerState) -> Worker:
    return replace(worker, state=state)


def _completions(requests: Iterable[TuningRequest]) -> list[Completion]:
    """Runs that were requested have no target: each takes what it was estimated at."""
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
