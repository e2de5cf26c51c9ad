"""Everything that Maitre takes from Dagster's inside, in one place.

None of these names is public. `tests/workers/launch/test_dagster_contract.py` holds what is
relied on; the version is pinned in `pyproject.toml`. Seen with Dagster 1.13.27:

- A run executes in a resident process with `core_execute_run`, on the main thread: elsewhere
  Dagster's interrupts do nothing.
- While it captures interrupts it also puts its own handler on SIGTERM, and leaves it there.
- An interrupt that comes too late stays captured and would hit the next run; it must be dropped.
- All that a run writes to the event log passes `DagsterInstance.handle_new_event`.
- A run that is resumed executes all its steps again, those that had succeeded, too.
- Run monitoring asks `check_run_worker_health` of every started run and resumes what is neither
  RUNNING nor SUCCESS; a `resume_run` that raises fails the run.
- With the queued coordinator a `launch_run` that raises `DagsterUserCodeUnreachableError` puts the
  run back in the queue; any other error fails it. For `user_code_failure_retry_delay` nothing of
  the run's code location leaves the queue then: a run must not be tried again each time in vain.
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

    Its own takes SIGTERM for an interrupt, which would cancel the run that a drained worker is to
    hand on. (To block the signal instead would not do: Dagster ends helper processes with it, and
    they inherit the mask.)
    """
    interrupts.setup_interrupt_handlers = lambda: None


def load_job(module: str, job_name: str) -> None:
    """Load a code location's job, as a run of it will ask for it."""
    from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository

    repository = ReconstructableRepository.for_module(module, "defs")
    ReconstructableJob(repository, job_name).get_definition()


def execute_run(
    instance: DagsterInstance, run_id: str, *, resume: bool, before_write: Callable[[], None]
) -> None:
    """Execute a run in this process, to its end; must be called on the main thread.

    `before_write` is called before every event that the run writes; what it raises ends the
    execution with nothing more written. Within `capture_interrupts`, SIGINT cancels the run. Raises
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
        # Whoever placed it here was too late: Dagster starts it from its queue, perhaps elsewhere.
        raise LeaseLost("the run has gone back to Dagster's queue")
    if run.job_code_origin is None:
        raise LookupError(f"run {run_id}: has no code origin; it was not launched by a workspace")
    job = recon_job_from_origin(run.job_code_origin)
    resume = resume and run.status not in _TO_START
    try:
        with _before_each_write(instance, before_write, _materialized(instance, run_id, resume)):
            for _ in core_execute_run(
                job, run, instance, inject_env_vars=True, resume_from_failure=resume
            ):
                pass
    except KeyboardInterrupt:
        # The run has been told to end and core_execute_run has told Dagster so.
        pass
    finally:
        # One that came too late must not hit the next run.
        pop_captured_interrupt()
    _settle(instance, run_id)


def free_slots(instance: DagsterInstance, run_id: str) -> None:
    """Give back the slots of concurrency pools that the run's steps hold.

    Dagster does so when a step or a run ends. Of a run that waits for another worker neither has:
    it would keep the workers that it waits for from running anything else.
    """
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        storage.free_concurrency_slots_for_run(run_id)


def report_starting(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    """Note that the run is being launched, as `DagsterInstance.launch_run` does; the run then."""
    kind = DagsterEventType.PIPELINE_STARTING.value
    event = DagsterEvent(event_type_value=kind, job_name=run.job_name)
    instance.report_dagster_event(event, run_id=run.run_id)
    return instance.get_run_by_id(run.run_id) or run


def report_enqueued(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    """Put the run into Dagster's queue, as the queued coordinator does; the run then."""
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
    return instance.get_run_by_id(run.run_id) or run


def _settle(instance: DagsterInstance, run_id: str) -> None:
    """A run that was interrupted outside of a step is left in CANCELING: end it."""
    run: DagsterRun | None = instance.get_run_by_id(run_id)
    if run is not None and run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run)


def _materialized(instance: DagsterInstance, run_id: str, resume: bool) -> set[AssetKey]:
    """The assets that the run has materialised, before the worker that it was on was lost."""
    if not resume:
        return set()
    events = instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
    return {e.dagster_event.asset_key for e in events if e.dagster_event} - {None}  # type: ignore[return-value]


@contextmanager
def _before_each_write(
    instance: DagsterInstance, before_write: Callable[[], None], materialized: Set[AssetKey]
) -> Iterator[None]:
    """Let `before_write` go ahead of every event that is written through this instance.

    What the run has `materialized` it does not report once more.
    """
    write = instance.handle_new_event

    def checked(event: EventLogEntry, **named: Any) -> None:
        before_write()
        said = event.dagster_event
        if said is None or not said.is_step_materialization or said.asset_key not in materialized:
            write(event, **named)

    instance.handle_new_event = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del instance.handle_new_event
