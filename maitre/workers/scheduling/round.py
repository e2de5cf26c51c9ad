"""One round of the scheduler: build a snapshot, ask the policy, act, and log the decision.

Several rounds may run at the same time (two daemons by mistake): requests are taken and runs are
placed by compare-and-set, and only the process that succeeds acts.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from maitre.requests.request import HANDED_TO, RequestState, TuningRequest
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
QUEUE_WINDOW = 1000
"""How many queued requests of each base model a policy sees: those with the earliest deadlines."""
_REMEMBERED = 500
_DRAINED_S = 60.0
"""After how long a drained worker that is still there is ended."""


@dataclass(frozen=True)
class StartRun:
    """A run to start for a request, on `workers`, or on any worker where there are none."""

    request: TuningRequest
    workers: tuple[str, ...] = ()
    lookup: bool = True


@dataclass
class Round:
    """The result of one round. `to_spare` workers may still be given back in it.

    `ready` workers stay that are idle or busy; `coming` are those that load or wait for a node.
    `leaving` and `growth` (workers by base model) are gathered, and the pool is called once at the
    end: giving a worker back takes seconds on Kubernetes. `unsettled` says that something waits
    which the next round might start. `base_models` are those that the round has planned.
    """

    starts: list[StartRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    to_spare: int = 0
    ready: int = 0
    coming: list[PoolWorker] = field(default_factory=list)
    leaving: list[PoolWorker] = field(default_factory=list)
    growth: Counter[str] = field(default_factory=Counter)
    unsettled: bool = False
    base_models: Collection[str] | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether the round has changed nothing and has nothing to report."""
        return not (self.starts or self.notes or self.leaving or self.growth)

    def report(self) -> list[str]:
        """Return what the round has done, one line per start and note."""
        starts = [f"{s.request.request_id} starts on {', '.join(s.workers)}" for s in self.starts]
        return starts + self.notes


def schedule(
    settings: Settings,
    runs: Runs,
    pool: WarmPool,
    waiting: Sequence[TuningRequest],
    now: datetime,
    policy: Policy | None = None,
) -> Round:
    """Let the policy decide on the open requests, and carry that out.

    `waiting` are the requests without a run. The default policy is the one named `POLICY`.
    """
    done = Round()
    store = RequestStore(settings.request_queue_url)
    workers = pool.workers()
    staying = [worker for worker in workers if not worker.is_draining]
    done.to_spare = len(staying) - settings.min_warm_workers
    done.ready = sum(worker.is_ready for worker in staying)
    done.coming = [worker for worker in staying if worker.is_coming]
    to_resume = runs.to_resume(pool, done.notes.append)
    cluster = planned_cluster(settings)
    done.base_models = tuple(cluster.models)
    requests = store.last_ended(_REMEMBERED) + open_requests(store, cluster.models)
    snapshot = live_snapshot(now.timestamp(), cluster, requests, workers, to_resume)
    policy = policy or named_policy(POLICY)
    actions = list(policy.decide(snapshot))
    decided = [a for a in actions if not isinstance(a, act.WaitUntil)]
    by_id = {request.request_id: request for request in requests}
    by_name = {worker.name: worker for worker in workers}
    startable = {request.request_id for request in waiting}
    is_whole = False
    try:
        for action in decided:
            if unknown := _unknown_names(action, by_id, by_name):
                # A defect of the policy, or of one that decided on an older snapshot: the other
                # actions are carried out.
                done.notes.append(f"refused {action}: unknown {unknown}")
                continue
            with _note_errors(done, f"could not do {action}"):
                if isinstance(action, act.StartJob | act.StartLookup):
                    request = by_id[action.job_id]
                    names = (
                        (action.worker,) if isinstance(action, act.StartLookup) else action.workers
                    )
                    if not all(by_name[name].is_idle for name in names):
                        # The workers still have another run: a later round starts it there.
                        continue
                    if request.run_id in to_resume:
                        _resume(runs, pool, request, [by_name[name] for name in names], done)
                    elif request.request_id in startable and store.take(
                        request.request_id,
                        owner=HANDED_TO + ",".join(names),
                        now=now,
                        hold_s=HOLD_S,
                    ):
                        asked = isinstance(action, act.StartLookup)
                        for_quality = request.iterations_bank >= request.iterations_cold
                        lookup = request.lookup and (asked or for_quality)
                        done.starts.append(StartRun(request, tuple(names), lookup))
                elif isinstance(action, act.RejectJob):
                    _reject(runs, store, by_id[action.job_id], to_resume, policy, action, now, done)
                else:
                    _carry_out(settings, pool, action, by_id, by_name, done)
        _scale(settings, pool, decided, by_name, done, len(staying), cluster.gpus, now)
        is_whole = True
    finally:
        # A stop that the floor refuses comes back in every round of an idle system.
        if decided and not (is_whole and done.is_empty):
            decision = Decision(snapshot, policy.name, tuple(actions), tuple(done.report()))
            write_tick(settings.scratch / "ticks", decision)
    done.unsettled = len(startable) > len(done.starts) or bool(to_resume)
    return done


def open_requests(
    store: RequestStore, base_models: Collection[str] | None = None
) -> list[TuningRequest]:
    """Return all requests in flight and the first queued ones, the earliest deadline first.

    The first `QUEUE_WINDOW` queued requests of each base model; without `base_models`, of the queue
    as a whole.
    """
    if base_models is None:
        queued = store.find([RequestState.QUEUED], limit=QUEUE_WINDOW)
    else:
        queued = store.first_queued(base_models, QUEUE_WINDOW)
    found = {request.request_id: request for request in [*store.in_flight(), *queued]}
    return sorted(found.values(), key=lambda request: (request.deadline_at, request.submitted_at))


def _unknown_names(
    action: act.Action, requests: Collection[str], workers: Collection[str]
) -> str | None:
    """Return the job or the workers of an action that do not exist; `None` if all exist."""
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
    """Give back the leaving workers, all at once, then start the new ones."""
    left_over = [worker for worker in workers.values() if _is_left_over(worker, now)]
    if left_over:
        names = ", ".join(worker.name for worker in left_over)
        with _note_errors(done, f"could not end {names}"):
            pool.remove(left_over)
            done.notes.append(f"ended {names}, which had drained and were still there")
    if done.leaving:
        with _note_errors(done, "could not give back " + ", ".join(w.name for w in done.leaving)):
            pool.shrink(done.leaving)
    started = sum(
        a.count
        for a in decided
        if isinstance(a, act.StartWorkers) and a.base_model == settings.base_model_name
    )
    missing = min(settings.min_warm_workers, gpus) - staying - started
    if missing > 0:
        # Some have died. The warm minimum is kept even when nothing needs those workers now.
        done.growth[settings.base_model_name] += missing
        done.notes.append(f"started {missing} workers in place of lost ones")
    for base_model, count in done.growth.items():
        there = [worker for worker in workers.values() if worker.base_model == base_model]
        failing = [f"{worker.name} {worker.failing}" for worker in there if worker.failing]
        if failing and not any(worker.view for worker in there):
            # The same cause would keep more workers from starting.
            done.notes.append(
                f"no more workers of {base_model} started: none starts up ({', '.join(failing)})"
            )
            continue
        with _note_errors(done, f"could not start {count} workers of {base_model}"):
            pool.grow(base_model, count, len(there))


@contextmanager
def _note_errors(done: Round, what: str) -> Iterator[None]:
    """Note an error of the pool or the database; the round goes on with what it has taken."""
    try:
        yield
    except TRANSIENT_ERRORS as error:
        done.notes.append(f"{what}: {first_line(error)}")


def _carry_out(
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
        _give_back(workers[action.worker], settings.min_warm_workers, done)
    elif isinstance(action, act.LoadModel):
        done.leaving.append(workers[action.worker])
        done.growth[action.base_model] += 1
        done.notes.append(f"{action.base_model} in place of {action.worker}")
    elif isinstance(action, act.PreemptJob | act.ResizeJob):
        # A resized job stops at its next step. The next round sees it waiting, and the policy
        # places it on the workers that are idle then.
        _preempt(settings, pool, requests[action.job_id], done)
    else:
        done.notes.append(f"cannot do {action}")


def _give_back(worker: PoolWorker, min_ready: int, done: Round) -> None:
    """Give back a worker of the model of `worker`, if `min_ready` ready ones then remain.

    A worker that loads, or that waits for a node, goes first: `worker` may be the only ready one.
    """
    if done.to_spare <= 0:
        return
    coming = [other for other in done.coming if other.base_model == worker.base_model]
    if coming:
        leaves = coming[0]
        done.coming.remove(leaves)
    elif done.ready > min_ready:
        leaves = worker
        done.ready -= 1
    else:
        return
    done.to_spare -= 1
    done.leaving.append(leaves)
    done.notes.append(f"gave {leaves.name} back")


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


def _is_left_over(worker: PoolWorker, now: datetime) -> bool:
    """Return whether the worker has drained long ago, has no run, and has not ended."""
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
    names = ", ".join(worker.name for worker in workers)
    is_resumed = runs.resume(request.run_id or "", pool, workers)
    outcome = "resumed" if is_resumed else "could not be resumed"
    done.notes.append(f"{request.request_id} {outcome} on {names}")


def now_utc() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
