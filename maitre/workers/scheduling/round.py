"""One round of the scheduler: look, ask the policy, act, and leave a record of both.

Any number of these may run at once (two daemons by mistake): a request is handed over by
compare-and-set, a run is placed by compare-and-set, and only the winner acts.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from maitre.requests.request import HANDED_TO, OPEN_STATES, RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.scheduling import actions as act
from maitre.scheduling.policies import named_policy
from maitre.scheduling.policy import Policy
from maitre.settings import Settings
from maitre.workers.leases import LeaseState, LeaseStore
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.pool import PoolWorker, WarmPool
from maitre.workers.scheduling.cluster_file import planned_cluster
from maitre.workers.scheduling.decision_log import Decision, write_tick
from maitre.workers.scheduling.live_snapshot import live_snapshot
from maitre.workers.scheduling.runs import Runs
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

POLICY = "maitre"
HOLD_S = 60.0
"""How long a request is held for the run that this round asks for."""
_REMEMBERED = 500
_DRAINED_S = 60.0
"""After how long a drained worker that is still there is ended: by then who drained it is done."""


@dataclass(frozen=True)
class StartRun:
    """A run to start for a request; `workers` is where, empty when any will do."""

    request: TuningRequest
    workers: tuple[str, ...] = ()
    lookup: bool = True


@dataclass
class Round:
    """What one round did. `to_spare`: how many workers may still be given back in it.

    `leaving` and `growth` (workers by base model) are gathered first and asked of the pool once:
    giving a worker back takes seconds on Kubernetes. `unsettled`: something waits that a round in
    a moment might start.
    """

    starts: list[StartRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    to_spare: int = 0
    leaving: list[PoolWorker] = field(default_factory=list)
    growth: Counter[str] = field(default_factory=Counter)
    unsettled: bool = False


def schedule(
    settings: Settings,
    runs: Runs,
    pool: WarmPool,
    waiting: Sequence[TuningRequest],
    now: datetime,
    policy: Policy | None = None,
) -> Round:
    """Decide on the open requests (`waiting`: those without a run) and act on it.

    `policy`: by default the policy named `POLICY`.
    """
    done = Round()
    store = RequestStore(settings.request_queue_url)
    workers = pool.workers()
    staying = [worker for worker in workers if not worker.is_draining]
    done.to_spare = len(staying) - settings.min_warm_workers
    to_resume = runs.to_resume(pool, done.notes.append)
    requests = store.last_ended(_REMEMBERED) + store.find(OPEN_STATES)
    cluster = planned_cluster(settings)
    snapshot = live_snapshot(now.timestamp(), cluster, requests, workers, to_resume)
    policy = policy or named_policy(POLICY)
    actions = list(policy.decide(snapshot))
    decided = [a for a in actions if not isinstance(a, act.WaitUntil)]
    if decided:
        decision = Decision(snapshot, policy.name, tuple(actions))
        write_tick(settings.scratch / "ticks", decision)
    by_id = {request.request_id: request for request in requests}
    by_name = {worker.name: worker for worker in workers}
    startable = {request.request_id for request in waiting}
    for action in decided:
        if unknown := _unknown_names(action, by_id, by_name):
            # A defect of the policy, or of one that decided on an older snapshot: the other
            # actions are carried out.
            done.notes.append(f"refused {action}: unknown {unknown}")
            continue
        with _noting(done, f"could not do {action}"):
            if isinstance(action, act.StartJob | act.StartLookup):
                request = by_id[action.job_id]
                names = (action.worker,) if isinstance(action, act.StartLookup) else action.workers
                if not all(by_name[name].is_idle for name in names):
                    # They are to be taken from another run: it goes there when that has let go.
                    continue
                if request.run_id in to_resume:
                    _resume(runs, pool, request, [by_name[name] for name in names], done)
                elif request.request_id in startable and store.take(
                    request.request_id, owner=HANDED_TO + ",".join(names), now=now, hold_s=HOLD_S
                ):
                    asked = isinstance(action, act.StartLookup)
                    for_quality = request.iterations_bank >= request.iterations_cold
                    lookup = request.lookup and (asked or for_quality)
                    done.starts.append(StartRun(request, tuple(names), lookup))
            elif isinstance(action, act.RejectJob):
                _reject(runs, store, by_id[action.job_id], to_resume, policy, action, now, done)
            else:
                _act(settings, pool, action, by_id, by_name, done)
    _scale(settings, pool, decided, by_name, done, len(staying), cluster.gpus, now)
    done.unsettled = len(startable) > len(done.starts) or bool(to_resume)
    return done


def _unknown_names(
    action: act.Action, requests: Collection[str], workers: Collection[str]
) -> str | None:
    """Return what an action names that is not there; None when all of it is."""
    job = getattr(action, "job_id", None)
    if job is not None and job not in requests:
        return f"job {job}"
    named = (*getattr(action, "workers", ()), *filter(None, [getattr(action, "worker", None)]))
    missing = [worker for worker in named if worker not in workers]
    return f"worker {', '.join(missing)}" if missing else None


def _scale(
    settings: Settings,
    pool: WarmPool,
    decided: Sequence[act.Action],
    workers: dict[str, PoolWorker],
    done: Round,
    staying: int,
    gpus: int,
    now: datetime,
) -> None:
    """Give back what is to leave, all at once, then start what is to come."""
    kept = [worker for worker in workers.values() if _is_kept(worker, now)]
    if kept:
        names = ", ".join(worker.name for worker in kept)
        with _noting(done, f"could not end {names}"):
            pool.remove(kept)
            done.notes.append(f"ended {names}: drained and still there")
    if done.leaving:
        with _noting(done, "could not give back " + ", ".join(w.name for w in done.leaving)):
            pool.shrink(done.leaving)
    started = sum(
        a.count
        for a in decided
        if isinstance(a, act.StartWorkers) and a.base_model == settings.base_model_name
    )
    missing = min(settings.min_warm_workers, gpus) - staying - started
    if missing > 0:
        # Some have died: those that are kept warm are there even when nobody needs them now.
        done.growth[settings.base_model_name] += missing
        done.notes.append(f"started {missing} workers in place of lost ones")
    for base_model, count in done.growth.items():
        there = [worker for worker in workers.values() if worker.base_model == base_model]
        failing = [f"{worker.name} {worker.failing}" for worker in there if worker.failing]
        if failing and not any(worker.view for worker in there):
            # What keeps these from coming up would keep others, too.
            done.notes.append(f"not started: none of {base_model} comes up ({', '.join(failing)})")
            continue
        with _noting(done, f"could not start {count} workers of {base_model}"):
            pool.grow(base_model, count, len(there))


@contextmanager
def _noting(done: Round, what: str) -> Iterator[None]:
    """Note what the pool or the database refuses: what the round has taken starts all the same."""
    try:
        yield
    except TRANSIENT_ERRORS as error:
        done.notes.append(f"{what}: {first_line(error)}")


def _act(
    settings: Settings,
    pool: WarmPool,
    action: act.Action,
    requests: dict[str, TuningRequest],
    workers: dict[str, PoolWorker],
    done: Round,
) -> None:
    if isinstance(action, act.StartWorkers) and action.base_model is not None:
        done.growth[action.base_model] += action.count
        done.notes.append(f"started {action.count} workers of {action.base_model}")
    elif isinstance(action, act.StopWorker):
        if done.to_spare > 0:
            done.to_spare -= 1
            done.leaving.append(workers[action.worker])
            done.notes.append(f"gave {action.worker} back")
    elif isinstance(action, act.LoadModel):
        done.leaving.append(workers[action.worker])
        done.growth[action.base_model] += 1
        done.notes.append(f"{action.base_model} in place of {action.worker}")
    elif isinstance(action, act.PreemptJob | act.ResizeJob):
        # To resize is to stop at the next step and to go on from there on the new workers: the
        # policy sees the job waiting at the next round, and places it as things are then.
        _preempt(settings, pool, requests[action.job_id], done)
    else:
        done.notes.append(f"cannot do {action}")


def _reject(
    runs: Runs,
    store: RequestStore,
    request: TuningRequest,
    waiting_runs: Collection[str],
    policy: Policy,
    action: act.RejectJob,
    now: datetime,
    done: Round,
) -> None:
    """End a request that waits as failed, with the policy's reason.

    A request whose run waits for a worker ends first, so that its run's end changes nothing; then
    the run is cancelled. A request whose run is on a worker is left alone: the policy preempts it
    first, and rejects it at a later round.
    """
    reason = f"rejected by the policy {policy.name}: {action.reason or 'it gave no reason'}"
    if request.run_id is None:
        is_rejected = store.reject(request.request_id, reason=reason, now=now)
    elif request.run_id in waiting_runs:
        is_rejected = store.move(
            request.request_id,
            expected=request.state,
            state=RequestState.FAILED,
            now=now,
            message=reason,
        )
        if is_rejected:
            runs.cancel(request.run_id)
    else:
        is_rejected = False
    shown = reason if is_rejected else "not rejected: it no longer waits"
    done.notes.append(f"{request.request_id}: {shown}")


def _is_kept(worker: PoolWorker, now: datetime) -> bool:
    """Whether it has been drained for long, has nothing to do any more, and has not ended."""
    view = worker.view
    if view is None or view.state != "draining" or view.claim is not None:
        return False
    return now.timestamp() - view.since_s > _DRAINED_S


def _preempt(settings: Settings, pool: WarmPool, request: TuningRequest, done: Round) -> None:
    lease = LeaseStore(settings.request_queue_url).current(request.run_id or "")
    if lease is None or lease.state is not LeaseState.HELD:
        return
    try:
        pool.client(lease.url).preempt(lease.attempt)
        done.notes.append(f"preempted {request.request_id} on {lease.worker}")
    except (ClaimRefusedError, WorkerUnreachableError) as error:
        done.notes.append(f"could not preempt {request.request_id}: {error}")


def _resume(
    runs: Runs,
    pool: WarmPool,
    request: TuningRequest,
    workers: Sequence[PoolWorker],
    done: Round,
) -> None:
    if runs.resume(request.run_id or "", pool, workers):
        names = ", ".join(worker.name for worker in workers)
        done.notes.append(f"{request.request_id} goes on on {names}")


def now_utc() -> datetime:
    """The time, for whoever starts a round."""
    return datetime.now(UTC)
