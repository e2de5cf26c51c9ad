"""`WarmPoolRunCoordinator`: launches runs that name their warm workers without queueing them."""

import dagster as dg

from maitre.workers.launch.dagster_internals import (
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    QueuedRunCoordinator,
    RunQueueConfig,
    SubmitRunContext,
    report_enqueued,
    report_starting,
)
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.run_tags import BASE_MODEL_TAG, WORKERS_TAG


class WarmPoolRunCoordinator(QueuedRunCoordinator):
    """Dagster's `QueuedRunCoordinator`, with its configuration, for runs that name no workers.

    A submitted run that names its workers (`maitre/workers`) is launched at once. If they do not
    take it, it is queued for any worker: those that it names may never be idle again.
    """

    def get_run_queue_config(self) -> RunQueueConfig:
        """Return the queue's limits: 0 for each model of which no worker is idle.

        The dequeuer calls this before it takes runs from the queue. A run that it tries in vain
        costs three events, one with a stack trace, and for a second it takes no other run of the
        code location.
        """
        config = super().get_run_queue_config()
        launcher = self._instance.run_launcher
        if not isinstance(launcher, WarmPoolRunLauncher):
            return config
        none_now = [
            {"key": BASE_MODEL_TAG, "value": model, "limit": 0} for model in launcher.busy_models()
        ]
        limits = [*config.tag_concurrency_limits, *none_now]
        return config._replace(tag_concurrency_limits=limits)

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Launch the run, or queue it."""
        run = context.dagster_run
        if run.status is not dg.DagsterRunStatus.NOT_STARTED or not run.tags.get(WORKERS_TAG):
            return super().submit_run(context)
        starting = report_starting(self._instance, run)
        try:
            self._instance.run_launcher.launch_run(LaunchRunContext(starting, context.workspace))
        except DagsterUserCodeUnreachableError:
            now = self._instance.get_run_by_id(run.run_id)
            if now is not None and now.status is not dg.DagsterRunStatus.STARTING:
                # Somebody has cancelled it, or a worker has begun it.
                return now
            self._instance.add_run_tags(run.run_id, {WORKERS_TAG: ""})
            return report_enqueued(self._instance, run)
        return self._instance.get_run_by_id(run.run_id) or run
