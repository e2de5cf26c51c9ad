"""Takes a tuning request: tells when it would be done and for how much, queues it, starts it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maitre.requests.acceptance import check_new
from maitre.requests.request import (
    OPEN_STATES,
    RequestError,
    RequestState,
    TuningRequest,
)
from maitre.requests.store import RequestStore
from maitre.scheduling.cluster import Cluster, read_cluster
from maitre.settings import Settings
from maitre.workers.pool.pool import PoolWorker, pool_of
from maitre.workers.scheduling.cluster_file import cluster_knowing
from maitre.workers.scheduling.forecast import earliest_deadline_s, forecast
from maitre.workers.scheduling.live_snapshot import job_view, live_snapshot
from maitre.workers.services_file import while_up


@dataclass(frozen=True)
class Wish:
    """What somebody asks for."""

    task: str
    deadline_at: datetime
    tenant: str = "default"
    idempotency_key: str | None = None
    max_iterations: int = 40
    lookup: bool = True
    accept_late: bool = False


@dataclass(frozen=True)
class Submitted:
    """A request that was taken; `worker` is where it starts at once, if anywhere.

    `is_new`: whether it was added now, or is what its idempotency key stands for already.
    """

    request: TuningRequest
    worker: str | None
    is_new: bool = True


def submit(settings: Settings, wish: Wish, now: datetime) -> Submitted:
    """Queue a wish, and start it when a warm worker is idle; once for an idempotency key.

    Raises `RequestError` when the deadline has passed, or cannot be met by the forecast unless the
    wish accepts that, and `SchedulingError` when warm workers would never get to it; then nothing
    is queued.
    """
    settings = while_up(settings)
    store = RequestStore(settings.request_queue_url)
    there = store.submitted(wish.task, settings.pool, wish.tenant, wish.idempotency_key)
    if there is not None:
        return Submitted(there, None, is_new=False)
    if wish.deadline_at <= now:
        raise RequestError(f"deadline {wish.deadline_at:%Y-%m-%d %H:%M:%S %Z} has passed already")
    estimates: dict[str, Any] = {
        "max_iterations": wish.max_iterations,
        "lookup": wish.lookup,
        "iterations_cold": float(wish.max_iterations),
        "iterations_bank": float(wish.max_iterations),
    }
    asked = TuningRequest(
        request_id="asked",
        task=wish.task,
        base_model=settings.pool,
        tenant=wish.tenant,
        submitted_at=now,
        deadline_at=wish.deadline_at,
        state=RequestState.QUEUED,
        idempotency_key=wish.idempotency_key,
        **estimates,
    )
    check_new(asked)
    workers, told = _told(settings, store, asked, wish.accept_late, now)
    request = store.submit(
        wish.task,
        deadline_at=wish.deadline_at,
        now=now,
        base_model=settings.pool,
        tenant=wish.tenant,
        idempotency_key=wish.idempotency_key,
        **estimates,
        **told,
    )
    return _started(settings, store, request, workers, now)


def retry(
    settings: Settings,
    request_id: str,
    now: datetime,
    deadline_at: datetime | None = None,
    accept_late: bool = False,
) -> Submitted:
    """Queue a failed or cancelled request once more, forecast and started as at submission.

    Raises what `submit` and `RequestStore.retry` raise; then nothing is changed.
    """
    settings = while_up(settings)
    store = RequestStore(settings.request_queue_url)
    asked = store.to_retry(request_id, now=now, deadline_at=deadline_at)
    workers, told = _told(settings, store, asked, accept_late, now)
    request = store.retry(request_id, now=now, deadline_at=asked.deadline_at, **told)
    return _started(settings, store, request, workers, now)


def _told(
    settings: Settings,
    store: RequestStore,
    asked: TuningRequest,
    accept_late: bool,
    now: datetime,
) -> tuple[list[PoolWorker], dict[str, Any]]:
    """The pool's workers; and the finish and the price that are told, if anything is known."""
    pool = pool_of(settings)
    cluster = _cluster(settings, asked.base_model, pool is not None)
    workers = pool.workers() if pool is not None else []
    if cluster is None:
        return workers, {"predicted_finish_at": None, "predicted_price": None}
    seen = live_snapshot(now.timestamp(), cluster, store.find(OPEN_STATES), workers, {})
    job = replace(job_view(asked, cluster.models[asked.base_model]), job_id="asked")
    told = forecast(seen, job)
    finish_at = _moment(told.finish_s)
    if told.finish_s > job.deadline_s and not accept_late:
        raise RequestError(
            f"{asked.task}: cannot meet this deadline; earliest is "
            f"{_as_deadlines(earliest_deadline_s(seen, job), now)}; "
            "--accept-late queues it all the same)"
        )
    return workers, {"predicted_finish_at": finish_at, "predicted_price": told.price}


def _cluster(settings: Settings, base_model: str, has_pool: bool) -> Cluster | None:
    """The cluster file; without a pool, which needs no plan, `None` where it says nothing."""
    if has_pool:
        return cluster_knowing(settings, base_model)
    path = Path(settings.cluster)
    cluster = read_cluster(path) if path.is_file() else None
    return cluster if cluster is not None and base_model in cluster.models else None


def _as_deadlines(moment_s: float, now: datetime) -> str:
    """A time, and how long that is from now, each as `--deadline` takes it.

    The span can still be met a moment later: what is not begun moves with the clock.
    """
    span_s = math.ceil(moment_s - now.timestamp())
    return f"{_moment(moment_s).astimezone().isoformat()} (--deadline {span_s}s"


def _moment(time_s: float) -> datetime:
    try:
        return datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):
        raise RequestError(f"it would take {time_s:.3g} s: that has no date") from None


def _started(
    settings: Settings,
    store: RequestStore,
    request: TuningRequest,
    workers: Sequence[PoolWorker],
    now: datetime,
) -> Submitted:
    """Start the request where a worker is idle."""
    if not workers or request.state is not RequestState.QUEUED:
        return Submitted(request, None)
    from maitre.workers.launch.graphql import launch_on_idle

    worker = launch_on_idle(settings, request, list(workers), now)
    return Submitted(store.get(request.request_id), worker)
