"""`WarmPoolRunLauncher`: gives runs that are tagged with a base model to a worker that holds it.

Every other run goes to the launcher that `dagster.yaml` names under `otherwise`, by default
Dagster's default launcher.
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
from maitre.workers.launch.step_jobs import RUN_LABEL, delete_step_jobs
from maitre.workers.lease_health import why_lost
from maitre.workers.leases import PREEMPTED, LeaseState, LeaseStore, RunLease
from maitre.workers.pool.client import ClaimRefusedError, WorkerUnreachableError
from maitre.workers.pool.factory import pool_of
from maitre.workers.pool.pool import PoolError, PoolWorker, WarmPool
from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

_log = logging.getLogger(__name__)


class WarmPoolRunLauncher(RunLauncher, ConfigurableClass):
    """Gives runs to warm workers.

    A run tagged `maitre/base-model` goes to all of the workers that `maitre/workers` names
    (comma-separated), or to any idle worker of that model. When no worker is idle, the run goes
    back to the queue. When the pool holds no worker of the model and the run names none, the run
    starts cold. To launch, resume or terminate a run, a daemon changes its lease: of two daemons
    one succeeds.
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
        """Return an attribute of the ordinary launcher: dagster-k8s reads some for step pods."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._ordinary_launcher, name)

    @cached_property
    def _ordinary_launcher(self) -> RunLauncher:
        """Return the ordinary launcher; make it at the first call.

        The launcher of Kubernetes needs a ServiceAccount's token, which warm workers do not have.
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
        """Return the part of `dagster.yaml` that configures this launcher."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the schema of the configuration."""
        return {"otherwise": dg.Field(ORDINARY_LAUNCHER, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Make the launcher from `dagster.yaml`; Dagster calls this."""
        otherwise = None
        if named := config_value.get("otherwise"):
            config = yaml.safe_dump(named["config"])
            otherwise = ConfigurableClassData(named["module"], named["class"], config)
        return cls(inst_data=inst_data, otherwise=otherwise)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Place the run on an idle worker, or start it by the ordinary launcher.

        Raises `DagsterUserCodeUnreachableError` when no worker takes the run, and when the pool or
        the database does not answer: Dagster then queues the run again. Cancels the run when the
        attempt of its request has another run (`attempts`).
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
            start_ordinary(lambda: self._ordinary_launcher.launch_run(context))
        except PoolError as error:
            raise self._back_to_queue(run, first_line(error)) from error

    def _launched_warm(self, run: dg.DagsterRun) -> bool:
        """Return whether a warm worker has the run; if not, the ordinary launcher starts it."""
        pool = self._pool_for(run)
        named = named_workers(run)
        workers = pool.workers(run.tags[BASE_MODEL_TAG]) if pool else []
        if pool is None or (not workers and not named):
            return False
        before = self._leases.current(run.run_id)
        if before is not None and before.state is LeaseState.HELD:
            # Another daemon has launched it since this one took it from the queue.
            return True
        if not self.place(run, pool, groups_of(workers, named), before):
            raise self._back_to_queue(run, f"no idle warm worker of {run.tags[BASE_MODEL_TAG]}")
        return True

    def _back_to_queue(self, run: dg.DagsterRun, why: str) -> DagsterUserCodeUnreachableError:
        """Return the error that makes Dagster queue the run again.

        A run for a warm worker keeps its place in the queue: Dagster does not try it until a worker
        is idle (`busy_models`). Dagster would try any other run again each second, before the runs
        behind it; so that run gets a lower priority.
        """
        if BASE_MODEL_TAG in run.tags:
            self._busy_models.add(run.tags[BASE_MODEL_TAG])
        elif PRIORITY_TAG not in run.tags:
            with suppress(*TRANSIENT_ERRORS):
                self._instance.add_run_tags(run.run_id, {PRIORITY_TAG: "-1"})
        return DagsterUserCodeUnreachableError(f"{why}; the run goes back to the queue")

    def busy_models(self) -> list[str]:
        """Return the base models of which no worker is idle: their runs stay in the queue."""
        return self._busy_models.still_busy(lambda: pool_of(self._settings()))

    @property
    def supports_resume_run(self) -> bool:
        """Return that run monitoring may resume runs."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Place a run whose worker is gone on another worker, which resumes its checkpoint.

        When no worker is idle, nothing happens: the next health check tries again.
        """
        run = context.dagster_run
        try:
            if not self._resumed_warm(run):
                start_ordinary(lambda: self._ordinary_launcher.resume_run(context))
        except TRANSIENT_ERRORS as error:
            # Dagster fails a run whose resume_run raises.
            self._report(run, f"Not resumed yet: {first_line(error)}")

    def _resumed_warm(self, run: dg.DagsterRun) -> bool:
        """Return whether the run belongs to the warm pool; place it if a worker is idle."""
        before = self._leases.current(run.run_id)
        pool = self._pool_for(run)
        if before is None or pool is None:
            return False
        workers = pool.workers(run.tags[BASE_MODEL_TAG])
        self.place(run, pool, groups_to_resume_on(workers, before), before)
        return True

    def take_over(self, run: dg.DagsterRun, pool: WarmPool, workers: Sequence[PoolWorker]) -> bool:
        """Place a run that has lost its worker on all of `workers`; return whether they have it."""
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
        """Claim all workers of the first group that is idle; return whether the run has workers.

        `before` is the lease that the new one replaces. When another launcher has replaced it, the
        run has the workers of that launcher.
        """
        for group in groups:
            if not group or not all(worker.is_idle for worker in group):
                continue
            # Every launcher claims in this order: of two that want the same workers one gets
            # them. The run begins with the last claim, that of the group's first worker.
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
        """Cancel a run at its next step; cancel it at once when its worker is gone."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        lease = self._leases.current(run_id)
        pool = self._pool_for(run)
        if lease is None or pool is None:
            is_ended = bool(self._ordinary_launcher.terminate(run_id))
            if is_ended:
                self._delete_step_jobs(run)
            return is_ended
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

    def _delete_step_jobs(self, run: dg.DagsterRun) -> None:
        """Delete the step Jobs of a run that was a Job; report what fails with the run."""
        context_of = getattr(self._ordinary_launcher, "get_container_context_for_run", None)
        if context_of is None:
            # It does not start Jobs.
            return
        from kubernetes.client import BatchV1Api

        try:
            deleted = delete_step_jobs(BatchV1Api(), context_of(run).namespace, run.run_id)
            message = f"{deleted} step Jobs deleted: the run is cancelled" if deleted else ""
        except Exception as error:
            # The run is cancelled all the same.
            message = (
                f"its step Jobs could not be deleted ({type(error).__name__}): kubectl delete jobs "
                f"-l {RUN_LABEL}={run.run_id}"
            )
        if message:
            self._instance.report_engine_event(message, run)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that run monitoring may check runs."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return FAILED when the run's worker is gone and another worker is idle.

        While no worker is idle, the run waits and counts as running. A run without a lease ends as
        failed after a few resumes (`ordinary_runs`).
        """
        lease = self._leases.current(run.run_id)
        pool = self._pool_for(run)
        if lease is None or pool is None:
            return ordinary_health(self._instance, self._ordinary_launcher, run)
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
        """Return the warm pool; `None` for a run that is not tagged with a base model."""
        return pool_of(self._settings()) if BASE_MODEL_TAG in run.tags else None

    def _note_lease(self, run: dg.DagsterRun, lease: RunLease) -> None:
        """Report to Dagster where the run is; the run is there even if that fails."""
        names = ",".join([lease.worker, *lease.others])
        try:
            self._instance.add_run_tags(run.run_id, {WORKER_TAG: names})
            self._report(run, f"Placed on warm worker {names} ({lease.attempt})")
        except TRANSIENT_ERRORS as error:
            _log.warning("run %s is on %s, not noted: %s", run.run_id, names, first_line(error))

    def _report(self, run: dg.DagsterRun, message: str) -> None:
        self._instance.report_engine_event(message, run, cls=self.__class__)
