"""The runs of a Dagster instance, as the scheduler asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dagster as dg

from maitre.settings import Settings
from maitre.workers.launch.launcher import WarmPoolRunLauncher
from maitre.workers.launch.lost_runs import runs_to_resume
from maitre.workers.pool.pool import PoolWorker, WarmPool


@dataclass(frozen=True)
class DagsterRuns:
    """Finds, resumes and cancels runs; see `maitre.workers.scheduling.runs.Runs`."""

    settings: Settings
    instance: dg.DagsterInstance

    def to_resume(self, pool: WarmPool, report: Callable[[str], None]) -> dict[str, int]:
        """Return the runs that need another worker, each with the iterations that it has done."""
        return runs_to_resume(self.settings, self.instance, pool, report)

    def resume(self, run_id: str, pool: WarmPool, workers: Sequence[PoolWorker]) -> bool:
        """Place a run that has lost its worker on all of `workers`; return whether they have it."""
        launcher = self.instance.run_launcher
        run = self.instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not isinstance(launcher, WarmPoolRunLauncher):
            return False
        return launcher.take_over(run, pool, workers)

    def cancel(self, run_id: str) -> None:
        """Cancel a run, which waits in Dagster's queue or has been launched."""
        self.instance.run_coordinator.cancel_run(run_id)
