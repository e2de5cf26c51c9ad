"""Carries out what a policy asks for, or refuses what the cluster cannot do."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from maitre.scheduling import actions as act
from maitre.scheduling.errors import PolicyError
from maitre.scheduling.simulation_state import (
    FAIL,
    LOOKUP_END,
    READY,
    ClusterState,
    JobRecord,
    PoolRecord,
    to_ms,
)
from maitre.scheduling.snapshot import LookupView, Worker


def apply(state: ClusterState, action: act.Action) -> None:
    """Carry out one action. Raises `PolicyError` for one that the cluster cannot take."""
    _APPLY[type(action)](state, action)


def _start_workers(state: ClusterState, action: act.StartWorkers) -> None:
    if action.count < 1 or len(state.held) + action.count > state.cluster.gpus:
        raise PolicyError(f"{action}: {len(state.held)} of {state.cluster.gpus} GPUs are held")
    for _ in range(action.count):
        state.worker_count += 1
        name = f"w{state.worker_count}"
        state.held[name] = state.now
        state.holder[name] = None
        state.log("worker_start", name)
        state.blank[name] = Worker(name, None, "blank", state.now / 1000, math.inf)
        if state.cluster.failures_per_worker_hour > 0:
            life_s = state.random.expovariate(state.cluster.failures_per_worker_hour / 3600)
            state.push(state.now + max(1, to_ms(life_s)), FAIL, name)
        if action.base_model is not None:
            _load(state, act.LoadModel(name, action.base_model))


def _load(state: ClusterState, action: act.LoadModel) -> None:
    name = action.worker
    if name in state.blank:
        del state.blank[name]
    else:
        held = state.holder.get(name)
        if held is None or name not in state.pools[held].idle:
            raise PolicyError(f"{action}: the worker is not idle")
        del state.pools[held].workers[name]
        del state.pools[held].idle[name]
        state.changed.add(held)
    pool = state.pools[action.base_model]
    state.holder[name] = action.base_model
    now_s = state.now / 1000
    ready_ms = state.now + pool.warm_up_ms
    pool.workers[name] = Worker(name, action.base_model, "loading", now_s, ready_ms / 1000)
    state.log("worker_load", name, "", action.base_model)
    epoch = state.load_epoch[name] = state.load_epoch.get(name, 0) + 1
    state.push(ready_ms, READY, name, epoch)
    state.changed.add(action.base_model)


def _stop_worker(state: ClusterState, action: act.StopWorker) -> None:
    model = state.holder.get(action.worker)
    idle = action.worker in (state.blank if model is None else state.pools[model].idle)
    if not idle:
        raise PolicyError(f"{action}: the worker is not idle")
    state.drop(action.worker)


def _start_lookup(state: ClusterState, action: act.StartLookup) -> None:
    record, pool = _queued_job(state, action)
    if record.view.started or record.view.lookup_ended:
        raise PolicyError(f"{action}: the job has started or has been looked up")
    state.occupy(pool, (action.worker,), "lookup", action)
    del pool.queued[action.job_id]
    ends_ms = state.now + pool.lookup_ms
    pool.lookups[action.job_id] = LookupView(record.view, action.worker, ends_ms / 1000)
    record.state = "lookup"
    state.lookups += 1
    state.log("lookup_start", action.worker, action.job_id, record.job.base_model)
    state.push(ends_ms, LOOKUP_END, action.job_id)
    state.changed.add(record.job.base_model)


def _start_job(state: ClusterState, action: act.StartJob) -> None:
    record, pool = _queued_job(state, action)
    if len(action.workers) not in pool.model.iteration_s:
        raise PolicyError(f"{action}: {len(action.workers)} workers is not allowed")
    state.occupy(pool, action.workers, "running", action)
    del pool.queued[action.job_id]
    again = record.view.started
    record.view = replace(record.view, started=True)
    record.state = "running"
    state.log("job_start", ";".join(action.workers), action.job_id, record.job.base_model)
    state.go_on(pool, record, action.workers, pool.resize_ms if again else 0)


def _resize(state: ClusterState, action: act.ResizeJob) -> None:
    record = state.jobs[action.job_id]
    if record.state != "running":
        raise PolicyError(f"{action}: the job is not running")
    pool = state.pools[record.job.base_model]
    if len(action.workers) not in pool.model.iteration_s:
        raise PolicyError(f"{action}: {len(action.workers)} workers is not allowed")
    state.keep_progress(pool, record)
    state.release(pool, record)
    state.occupy(pool, action.workers, "running", action)
    state.resizes += 1
    state.log("job_resize", ";".join(action.workers), action.job_id, record.job.base_model)
    state.go_on(pool, record, action.workers, pool.resize_ms)


def _reject(state: ClusterState, action: act.RejectJob) -> None:
    record, pool = _queued_job(state, action)
    del pool.queued[action.job_id]
    record.state = "rejected"
    state.rejected += 1
    state.open_jobs -= 1
    state.log("job_reject", "", action.job_id, record.job.base_model)
    state.changed.add(record.job.base_model)


def _wait_until(state: ClusterState, action: act.WaitUntil) -> None:
    wake_ms = max(state.now + 1, to_ms(action.time_s))
    state.wake_ms = wake_ms if state.wake_ms is None else min(state.wake_ms, wake_ms)


def _preempt(state: ClusterState, action: act.PreemptJob) -> None:
    state.preempt(action.job_id)


def _queued_job(
    state: ClusterState, action: act.StartLookup | act.StartJob | act.RejectJob
) -> tuple[JobRecord, PoolRecord]:
    record = state.jobs.get(action.job_id)
    if record is None or record.state != "queued":
        raise PolicyError(f"{action}: the job is not in the queue")
    return record, state.pools[record.job.base_model]


_APPLY: dict[type, Callable[[ClusterState, Any], None]] = {
    act.StartWorkers: _start_workers,
    act.LoadModel: _load,
    act.StopWorker: _stop_worker,
    act.StartLookup: _start_lookup,
    act.StartJob: _start_job,
    act.ResizeJob: _resize,
    act.PreemptJob: _preempt,
    act.RejectJob: _reject,
    act.WaitUntil: _wait_until,
}
