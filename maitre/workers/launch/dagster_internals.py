"""All names that Maitre uses from inside Dagster.

None of these names is public. `tests/workers/launch/test_dagster_contract.py` tests what Maitre
relies on; `pyproject.toml` pins the version. Observed with Dagster 1.13.27:

- `core_execute_run` executes a run in a resident process. It must run on the main thread: on other
  threads Dagster's interrupts do nothing.
- While Dagster captures interrupts, it also sets its own handler of SIGTERM, and leaves it there.
- An interrupt that comes too late stays captured and would hit the next run. It must be dropped.
- A run writes to the event log only through `DagsterInstance.handle_new_event`.
- A resumed run executes all its steps again, also those that had succeeded.
- Run monitoring calls `check_run_worker_health` for every started run. It resumes a run that is
  neither RUNNING nor SUCCESS. A `resume_run` that raises fails the run.
- The queued coordinator puts a run back in the queue when `launch_run` raises
  `DagsterUserCodeUnreachableError`. Any other error fails the run. For the time of
  `user_code_failure_retry_delay` no run of that code location leaves the queue.
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, EventLogEntry
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import (
    QueuedRunCoordinator,
    RunQueueConfig,
)
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._grpc.impl import core_execute_run
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster._utils import interrupts
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.interrupts import capture_interrupts, pop_captured_interrupt

from maitre.workers.leases import LeaseLost

__all__ = [
    "PRIORITY_TAG",
    "CheckRunHealthResult",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterInstance",
    "DagsterRun",
    "DagsterRunStatus",
    "DagsterUserCodeUnreachableError",
    "DefaultRunLauncher",
    "LaunchRunContext",
    "QueuedRunCoordinator",
    "ResumeRunContext",
    "RunLauncher",
    "RunQueueConfig",
    "SubmitRunContext",
    "WorkerStatus",
    "capture_interrupts",
    "execute_run",
    "free_slots",
    "keep_own_sigterm",
    "load_job",
    "pop_captured_interrupt",
    "report_enqueued",
    "report_starting",
]

_TO_START = (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING)


def keep_own_sigterm() -> None:
    """Keep Dagster from replacing this process's handler of SIGTERM.

    Dagster's handler treats SIGTERM as an interrupt: it would cancel the run that a drained worker
    gives to the next one. To block the signal does not work either: Dagster ends helper processes
    with SIGTERM, and they inherit the mask.
    """
    interrupts.setup_interrupt_handlers = lambda: None


def load_job(module: str, job_name: str) -> None:
    """Load a code location's job, as its runs load it."""
    from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository

    repository = ReconstructableRepository.for_module(module, "defs")
    ReconstructableJob(repository, job_name).get_definition()


def execute_run(
    instance: DagsterInstance, run_id: str, *, resume: bool, before_write: Callable[[], None]
) -> None:
    """Execute a run in this process, to its end; must be called on the main thread.

    `before_write` is called before every event that the run writes. When it raises, the execution
    ends and writes nothing more. Within `capture_interrupts`, SIGINT cancels the run. Raises
    `LeaseLost` for a run that waits in Dagster's queue.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise LookupError(f"run {run_id}: Dagster's storage does not know it")
    if run.is_finished:
        return
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run)
        return
    if run.status is DagsterRunStatus.QUEUED:
        # The lease came too late: Dagster starts the run from its queue, maybe elsewhere.
        raise LeaseLost("the run has gone back to Dagster's queue")
    if run.job_code_origin is None:
        raise LookupError(f"run {run_id}: has no code origin; it was not launched by a workspace")
    job = recon_job_from_origin(run.job_code_origin)
    resume = resume and run.status not in _TO_START
    try:
        with _before_each_write(
            instance, before_write, _materialized_assets(instance, run_id, resume)
        ):
            for _ in core_execute_run(
                job, run, instance, inject_env_vars=True, resume_from_failure=resume
            ):
                pass
    except KeyboardInterrupt:
        # The run was cancelled, and core_execute_run has reported that to Dagster.
        pass
    finally:
        # An interrupt that came too late must not hit the next run.
        pop_captured_interrupt()
    _end_if_canceling(instance, run_id)


def free_slots(instance: DagsterInstance, run_id: str) -> None:
    """Give back the slots of concurrency pools that the run's steps hold.

    Dagster gives them back when a step or a run ends. A run that waits for another worker has not
    ended: with its slots it would keep the workers that it waits for from running anything else.
    """
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        storage.free_concurrency_slots_for_run(run_id)


def report_starting(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    """Report that the run is being launched, as `DagsterInstance.launch_run` does; return it."""
    kind = DagsterEventType.PIPELINE_STARTING.value
    event = DagsterEvent(event_type_value=kind, job_name=run.job_name)
    instance.report_dagster_event(event, run_id=run.run_id)
    return instance.get_run_by_id(run.run_id) or run


def report_enqueued(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    """Put the run into Dagster's queue, as the queued coordinator does; return it."""
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
    return instance.get_run_by_id(run.run_id) or run


def _end_if_canceling(instance: DagsterInstance, run_id: str) -> None:
    """End a run that is CANCELING: an interrupt outside of a step leaves it in that state."""
    run: DagsterRun | None = instance.get_run_by_id(run_id)
    if run is not None and run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run)


def _materialized_assets(instance: DagsterInstance, run_id: str, resume: bool) -> set[AssetKey]:
    """Return the assets that the run has materialised before it lost its worker."""
    if not resume:
        return set()
    events = instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
    return {e.dagster_event.asset_key for e in events if e.dagster_event} - {None}  # type: ignore[return-value]


@contextmanager
def _before_each_write(
    instance: DagsterInstance, before_write: Callable[[], None], materialized: Set[AssetKey]
) -> Iterator[None]:
    """Call `before_write` before every event that is written through this instance.

    The materialisations of assets that the run has `materialized` already are left out.
    """
    write = instance.handle_new_event

    def checked(event: EventLogEntry, **named: Any) -> None:
        before_write()
        step = event.dagster_event
        if step is None or not step.is_step_materialization or step.asset_key not in materialized:
            write(event, **named)

    instance.handle_new_event = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del instance.handle_new_event
