"""Accept a tuning request: forecast it, queue it, and start it when a worker is idle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from maitre.requests.request import (
    DEFAULT_ITERATIONS,
    DEFAULT_TENANT,
    RequestError,
    RequestState,
    TuningRequest,
    new_request,
)
from maitre.requests.store import RequestStore
from maitre.scheduling.cluster import Cluster, ModelSpec, read_cluster
from maitre.settings import Settings
from maitre.workers.pool.factory import pool_of
from maitre.workers.pool.pool import PoolWorker
from maitre.workers.running_services import with_running_services
from maitre.workers.scheduling.cluster_file import cluster_knowing
from maitre.workers.scheduling.forecast import WorkAhead, earliest_deadline_s, forecast
from maitre.workers.scheduling.live_snapshot import job_view, live_snapshot, lookup_iterations


@dataclass(frozen=True)
class TuneOrder:
    """A user's order: a task, a deadline, and how to tune."""

    task: str
    deadline_at: datetime
    tenant: str = DEFAULT_TENANT
    idempotency_key: str | None = None
    max_iterations: int = DEFAULT_ITERATIONS
    lookup: bool = True
    accept_late: bool = False


@dataclass(frozen=True)
class Submitted:
    """An accepted request, and the worker on which it starts at once, if there is one.

    `is_new` is false where the idempotency key belongs to an earlier request.
    """

    request: TuningRequest
    worker: str | None
    is_new: bool = True


def submit(settings: Settings, order: TuneOrder, now: datetime) -> Submitted:
    """Queue an order, once per idempotency key, and start it when a warm worker is idle.

    Queues nothing and raises `RequestError` when the deadline has passed, or when the forecast is
    later and the order does not accept that. Raises `SchedulingError` when the warm workers hold
    another base model.
    """
    settings = with_running_services(settings)
    store = RequestStore(settings.request_queue_url)
    earlier = store.submitted(
        order.task, settings.base_model_name, order.tenant, order.idempotency_key
    )
    if earlier is not None:
        return Submitted(earlier, None, is_new=False)
    request = new_request(
        order.task,
        deadline_at=order.deadline_at,
        now=now,
        base_model=settings.base_model_name,
        tenant=order.tenant,
        idempotency_key=order.idempotency_key,
        max_iterations=order.max_iterations,
        lookup=order.lookup,
    )
    workers, predicted = _predict(settings, store, request, order.accept_late, now)
    queued = store.add(predicted)
    if queued.request_id != request.request_id:
        # Another process has used the key since this one looked: that process starts the request.
        return Submitted(queued, None, is_new=False)
    return _start_where_idle(settings, store, queued, workers, now)


def retry(
    settings: Settings,
    request_id: str,
    now: datetime,
    deadline_at: datetime | None = None,
    accept_late: bool = False,
    tenant: str | None = None,
) -> Submitted:
    """Queue a failed or cancelled request again, forecast and started as at submission.

    Raises what `submit` and `RequestStore.retry` raise; then the request is unchanged. With a
    `tenant` another tenant's request does not exist.
    """
    settings = with_running_services(settings)
    store = RequestStore(settings.request_queue_url)
    request = store.to_retry(request_id, now=now, deadline_at=deadline_at, tenant=tenant)
    workers, predicted = _predict(settings, store, request, accept_late, now)
    queued = store.retry(
        request_id,
        now=now,
        deadline_at=predicted.deadline_at,
        predicted_finish_at=predicted.predicted_finish_at,
        predicted_price=predicted.predicted_price,
        tenant=tenant,
    )
    return _start_where_idle(settings, store, queued, workers, now)


def _predict(
    settings: Settings,
    store: RequestStore,
    request: TuningRequest,
    accept_late: bool,
    now: datetime,
) -> tuple[list[PoolWorker], TuningRequest]:
    """Return the pool's workers, and the request with its forecast where there can be one."""
    pool = pool_of(settings)
    cluster = _cluster(settings, request.base_model, pool is not None)
    workers = pool.workers() if pool is not None else []
    if cluster is None:
        return workers, replace(request, predicted_finish_at=None, predicted_price=None)
    model = cluster.models[request.base_model]
    snapshot = live_snapshot(now.timestamp(), cluster, store.in_flight(), workers, {})
    job = job_view(request, model)
    predicted = forecast(snapshot, job, _queue(store, model, request.deadline_at))
    finish_at = _moment(predicted.finish_s)
    if predicted.finish_s > job.deadline_s and not accept_late:
        earliest_s = earliest_deadline_s(snapshot, job, _queue(store, model))
        raise RequestError(
            f"{request.task}: cannot meet this deadline; earliest is "
            f"{_as_deadlines(earliest_s, now)}; --accept-late queues it anyway)"
        )
    return workers, replace(request, predicted_finish_at=finish_at, predicted_price=predicted.price)


def _queue(store: RequestStore, model: ModelSpec, until: datetime | None = None) -> list[WorkAhead]:
    """Return the work of a model's queued requests with deadlines up to `until`, in their order."""
    return [
        WorkAhead(
            work.deadline_at.timestamp(), work.iterations_cold + lookup_iterations(work, model)
        )
        for work in store.queued_work(model.name, until)
    ]


def _cluster(settings: Settings, base_model: str, has_pool: bool) -> Cluster | None:
    """Return the cluster; without a pool `None` where no cluster file has the base model."""
    if has_pool:
        return cluster_knowing(settings, base_model)
    path = Path(settings.cluster)
    cluster = read_cluster(path) if path.is_file() else None
    return cluster if cluster is not None and base_model in cluster.models else None


def _as_deadlines(moment_s: float, now: datetime) -> str:
    """Return a time and the span until it, each in the format of `--deadline`.

    The span can still be met a moment later: the start of waiting runs moves with the clock.
    """
    span_s = math.ceil(moment_s - now.timestamp())
    return f"{_moment(moment_s).astimezone().isoformat()} (--deadline {span_s}s"


def _moment(time_s: float) -> datetime:
    try:
        return datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):
        raise RequestError(
            f"forecast: would finish {time_s:.3g} s after 1970: expected a date before year 10000"
        ) from None


def _start_where_idle(
    settings: Settings,
    store: RequestStore,
    request: TuningRequest,
    workers: Sequence[PoolWorker],
    now: datetime,
) -> Submitted:
    """Start the request if a worker is idle; return it as accepted."""
    if not workers or request.state is not RequestState.QUEUED:
        return Submitted(request, None)
    from maitre.workers.launch.graphql import launch_on_idle

    worker = launch_on_idle(settings, request, list(workers), now)
    return Submitted(store.get(request.request_id), worker)
