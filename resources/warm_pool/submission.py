"""Takes a tuning request: tells when it would be done and for how much, queues it, starts it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from maitre.scheduling.cluster import read_cluster
from resources.request_queue.request import (
    OPEN_STATES,
    RequestError,
    RequestState,
    TuningRequest,
)
from resources.request_queue.store import RequestStore
from resources.settings import Settings
from resources.warm_pool.forecast import Forecast, forecast
from resources.warm_pool.live_snapshot import job_view, live_snapshot
from resources.warm_pool.pool import PoolWorker, pool_of
from resources.warm_pool.services_file import while_up


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
    wish accepts that; then nothing is queued.
    """
    settings = while_up(settings)
    store = RequestStore(settings.request_queue_url)
    there = store.submitted(wish.task, settings.pool, wish.tenant, wish.idempotency_key)
    if there is not None:
        return Submitted(there, None, is_new=False)
    if wish.deadline_at <= now:
        raise RequestError(f"deadline {wish.deadline_at:%Y-%m-%d %H:%M:%S %Z} has passed already")
    pool = pool_of(settings)
    workers = pool.workers() if pool is not None else []
    told = _forecast(settings, store, wish, workers, now)
    finish_at = datetime.fromtimestamp(told.finish_s, UTC) if told else None
    if finish_at is not None and finish_at > wish.deadline_at and not wish.accept_late:
        raise RequestError(
            f"{wish.task}: cannot meet this deadline; earliest is "
            f"{finish_at.astimezone():%Y-%m-%d %H:%M:%S} (--accept-late queues it all the same)"
        )
    request = store.submit(
        wish.task,
        deadline_at=wish.deadline_at,
        now=now,
        base_model=settings.pool,
        tenant=wish.tenant,
        idempotency_key=wish.idempotency_key,
        max_iterations=wish.max_iterations,
        lookup=wish.lookup,
        iterations_cold=float(wish.max_iterations),
        iterations_bank=float(wish.max_iterations),
        predicted_finish_at=finish_at,
        predicted_price=told.price if told else None,
    )
    if pool is None or request.state is not RequestState.QUEUED:
        return Submitted(request, None)
    from resources.warm_pool.quick_launch import launch_on_idle

    worker = launch_on_idle(settings, request, workers, now)
    return Submitted(store.get(request.request_id), worker)


def _forecast(
    settings: Settings,
    store: RequestStore,
    wish: Wish,
    workers: list[PoolWorker],
    now: datetime,
) -> Forecast | None:
    """`None` where the cluster file does not know the base model."""
    path = Path(settings.cluster)
    if not path.is_file():
        return None
    cluster = read_cluster(path)
    if settings.pool not in cluster.models:
        return None
    asked = TuningRequest(
        request_id="",
        task=wish.task,
        base_model=settings.pool,
        tenant=wish.tenant,
        submitted_at=now,
        deadline_at=wish.deadline_at,
        state=RequestState.QUEUED,
        iterations_cold=float(wish.max_iterations),
        iterations_bank=float(wish.max_iterations),
        max_iterations=wish.max_iterations,
        lookup=wish.lookup,
    )
    seen = live_snapshot(now.timestamp(), cluster, store.find(OPEN_STATES), workers, {})
    job = job_view(asked, cluster.models[settings.pool])
    return forecast(seen, replace(job, job_id="asked"))
