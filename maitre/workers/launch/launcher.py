"""`WarmPoolRunLauncher`: runs tagged for a base model go to a worker that holds it.

Every other run goes to the launcher named under `otherwise` (Dagster's default one when none is).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import dagster as dg
import yaml

from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.attempts import why_not_launched
from maitre.workers.launch.busy_models import BusyModels
from maitre.workers.launch.claiming import claim_all, groups_of, groups_to_resume_on, named_workers
from maitre.workers.launch.dagster_internals import (
    PRIORITY_TAG,
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    DagsterUserCodeUnreachableError,
    DefaultRunLauncher,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from maitre.workers.launch.dagster_queue import waits_in_dagsters_queue
from maitre.workers.launch.ordinary_runs import ORDINARY_LAUNCHER, ordinary_health, start_ordinary
from maitre.workers.launch.run_tags import BASE_MODEL_TAG, WORKER_TAG
from maitre.workers.lease_health import why_lost
from maitre.workers.leases import PREEMPTED, LeaseState, LeaseStore, RunLease
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.factory import pool_of
from maitre.workers.pool.pool import PoolError, PoolWorker, WarmPool
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

_log = logging.getLogger(__name__)


class WarmPoolRunLauncher(RunLauncher, ConfigurableClass):
    """Hands runs to warm workers; see the module.

    A run tagged `maitre/base-model` goes to the workers named in `maitre/workers` (comma-separated,
    all of them or none), or to any idle one of that model. With none idle it goes back to the
    queue; where no worker of the model is held at all and none is named, it starts cold. Whatever
    launches, resumes or terminates a run goes through its lease, so that of two daemons one
    wins.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        otherwise: ConfigurableClassData | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._inst_data = inst_data
        self._otherwise_data = otherwise
        self._given_settings = settings
        self._busy_models = BusyModels()
        super().__init__()

    def __getattr__(self, name: str) -> Any:
        """What dagster-k8s asks of its own launcher when it makes a pod for a step."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._otherwise, name)

    @cached_property
    def _otherwise(self) -> RunLauncher:
        """The ordinary launcher, made when first needed.

        That of Kubernetes wants a ServiceAccount's token; warm workers have none, and need none.
        """
        if self._otherwise_data is None:
            made: RunLauncher = DefaultRunLauncher()
        else:
            made = self._otherwise_data.rehydrate(as_type=RunLauncher)  # type: ignore[type-abstract]
        if self.has_instance:
            made.register_instance(self._instance)
        return made

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where in `dagster.yaml` it was configured."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The configuration's schema."""
        return {"otherwise": dg.Field(ORDINARY_LAUNCHER, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Made by Dagster from `dagster.yaml`."""
        otherwise = None
        if named := config_value.get("otherwise"):
            config = yaml.safe_dump(named["config"])
            otherwise = ConfigurableClassData(named["module"], named["class"], config)
        return cls(inst_data=inst_data, otherwise=otherwise)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Place the run on an idle worker, or launch it the ordinary way.

        `DagsterUserCodeUnreachableError`, upon which Dagster queues the run again, when no worker
        takes it, and when the pool or the database cannot be asked for now. A run for a request
        that another run is for is cancelled here (`request_runs`).
        """
        run = context.dagster_run
        try:
            if why := why_not_launched(RequestStore(self._settings().request_queue_url), run):
                self._instance.report_run_canceled(run, why)
                return
            if self._launched_warm(run):
                return
        except TRANSIENT_ERRORS as error:
            raise self._back_to_queue(run, first_line(error)) from error
        try:
            start_ordinary(lambda: self._otherwise.launch_run(context))
        except PoolError as error:
            raise self._back_to_queue(run, first_line(error)) from error

    def _launched_warm(self, run: dg.DagsterRun) -> bool:
        """Whether a warm worker has the run; not when it is to go the ordinary way."""
        pool = self._pool_for(run)
        named = named_workers(run)
        workers = pool.workers(run.tags[BASE_MODEL_TAG]) if pool else []
        if pool is None or (not workers and not named):
            return False
        before = self._leases.current(run.run_id)
        if before is not None and before.state is LeaseState.HELD:
            # Another daemon has launched it between this one's look and now.
            return True
        if not self.place(run, pool, groups_of(workers, named), before):
            raise self._back_to_queue(run, f"no idle warm worker of {run.tags[BASE_MODEL_TAG]}")
        return True

    def _back_to_queue(self, run: dg.DagsterRun, why: str) -> DagsterUserCodeUnreachableError:
        """What makes Dagster queue the run again.

        A warm run keeps its place: it is not tried until a worker is idle (`busy_models`).
        Another one would be, each second: it goes behind those that it would keep waiting.
        """
        if BASE_MODEL_TAG in run.tags:
            self._busy_models.add(run.tags[BASE_MODEL_TAG])
        elif PRIORITY_TAG not in run.tags:
            with suppress(*TRANSIENT_ERRORS):
                self._instance.add_run_tags(run.run_id, {PRIORITY_TAG: "-1"})
        return DagsterUserCodeUnreachableError(f"{why}; the run goes back to the queue")

    def busy_models(self) -> list[str]:
        """The base models whose runs need not be tried now: they have found no idle worker."""
        return self._busy_models.still_busy(lambda: pool_of(self._settings()))

    @property
    def supports_resume_run(self) -> bool:
        """Run monitoring may resume runs."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Place a run whose worker is gone on another; it goes on from its checkpoint.

        With none idle nothing happens: the next health check asks again.
        """
        run = context.dagster_run
        try:
            if not self._resumed_warm(run):
                start_ordinary(lambda: self._otherwise.resume_run(context))
        except TRANSIENT_ERRORS as error:
            # What is raised here would fail the run.
            self._tell(run, f"Not resumed yet: {first_line(error)}")

    def _resumed_warm(self, run: dg.DagsterRun) -> bool:
        """Whether the run is one of the warm pool's, which takes it as soon as it can."""
        before = self._leases.current(run.run_id)
        pool = self._pool_for(run)
        if before is None or pool is None:
            return False
        workers = pool.workers(run.tags[BASE_MODEL_TAG])
        self.place(run, pool, groups_to_resume_on(workers, before), before)
        return True

    def take_over(self, run: dg.DagsterRun, pool: WarmPool, workers: Sequence[PoolWorker]) -> bool:
        """Place a run that has no worker any more on all of `workers`; whether they have it."""
        before = self._leases.current(run.run_id)
        if before is None or before.state is not LeaseState.RELEASED:
            return False
        if waits_in_dagsters_queue(run, before):
            return False
        return self.place(run, pool, [workers], before)

    def place(
        self,
        run: dg.DagsterRun,
        pool: WarmPool,
        groups: Iterable[Sequence[PoolWorker]],
        before: RunLease | None,
    ) -> bool:
        """Claim all workers of the first of `groups` that can be had; whether the run has some now.

        `before` is the lease that the new one replaces; when another launcher replaces it
        first, that one has the run, and the answer is yes.
        """
        for group in groups:
            if not group or not all(worker.is_idle for worker in group):
                continue
            # Everybody claims in this order, and the last one, with whose claim the run begins,
            # is the first of the group: of two launchers that want the same workers one gets them.
            *others, first = sorted(group, key=lambda worker: worker.name)
            lease = self._leases.grant(
                run.run_id,
                worker=first.name,
                url=first.url,
                after=before,
                now=datetime.now(UTC),
                others=[worker.name for worker in others],
            )
            if lease is None:
                return True
            refusal = claim_all(pool, lease, [*others, first])
            if refusal is None:
                self._note_lease(run, lease)
                return True
            self._leases.refuse(run.run_id, lease.attempt, refusal)
            before = self._leases.current(run.run_id)
        return False

    def terminate(self, run_id: str) -> bool:
        """Cancel a run at its next step; one whose worker is gone is cancelled here."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        lease = self._leases.current(run_id)
        pool = self._pool_for(run)
        if lease is None or pool is None:
            return bool(self._otherwise.terminate(run_id))
        self._instance.report_run_canceling(run)
        if lease.state is LeaseState.HELD:
            try:
                pool.client(lease.url).cancel(lease.attempt)
                return True
            except (ClaimRefusedError, WorkerUnreachableError) as error:
                self._leases.release(run_id, lease.attempt, str(error))
        canceling = self._instance.get_run_by_id(run_id)
        if canceling is not None and not canceling.is_finished:
            self._instance.report_run_canceled(canceling)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask after runs."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """FAILED when the run's worker is gone and another is idle to take it.

        While none is, the run waits and counts as running. A run without a lease is given up
        after a few resumes (`ordinary_runs`).
        """
        lease = self._leases.current(run.run_id)
        pool = self._pool_for(run)
        if lease is None or pool is None:
            return ordinary_health(self._instance, self._otherwise, run)
        if lease.state is LeaseState.ENDED:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        gone = why_lost(self._leases, pool, lease)
        if gone is None or lease.message == PREEMPTED:
            return CheckRunHealthResult(WorkerStatus.RUNNING, gone, run_worker_id=lease.worker)
        if not any(worker.is_idle for worker in pool.workers(run.tags[BASE_MODEL_TAG])):
            message = f"{gone}; waiting for an idle worker"
            return CheckRunHealthResult(WorkerStatus.RUNNING, message)
        return CheckRunHealthResult(WorkerStatus.FAILED, gone, run_worker_id=lease.worker)

    @property
    def _leases(self) -> LeaseStore:
        return LeaseStore(self._settings().request_queue_url)

    def _settings(self) -> Settings:
        # Dagster makes a launcher wherever it opens the instance; only some of them launch.
        if self._given_settings is None:
            self._given_settings = Settings.read()
        return self._given_settings

    def _pool_for(self, run: dg.DagsterRun) -> WarmPool | None:
        """The warm pool, for a run that is tagged for one."""
        return pool_of(self._settings()) if BASE_MODEL_TAG in run.tags else None

    def _note_lease(self, run: dg.DagsterRun, lease: RunLease) -> None:
        """Say in Dagster where the run is; it is there already, whether this is noted or not."""
        names = ",".join([lease.worker, *lease.others])
        try:
            self._instance.add_run_tags(run.run_id, {WORKER_TAG: names})
            self._tell(run, f"Placed on warm worker {names} ({lease.attempt})")
        except TRANSIENT_ERRORS as error:
            _log.warning("run %s is on %s, not noted: %s", run.run_id, names, first_line(error))

    def _tell(self, run: dg.DagsterRun, message: str) -> None:
        self._instance.report_engine_event(message, run, cls=self.__class__)
