"""INFless (ASPLOS'22) for tuning jobs: instances sized to the SLO, kept alive by a histogram.

From the paper: an instance's resources are chosen so that it meets the SLO at the least cost, an
arrival without a free instance starts one, and the keep-alive window follows the long- and
short-term histograms of idle time (LSTH). Ours: an instance here is k workers of a base model; its
histogram is that of the gaps between the model's arrivals; jobs never change k; no bank.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from maitre.scheduling.actions import Action, StartJob, WaitUntil
from maitre.scheduling.policies.availability import idle_workers, loading_until_s, run_s
from maitre.scheduling.policies.fleet import Fleet
from maitre.scheduling.policies.idle_window import stop_idle
from maitre.scheduling.policies.parameters import QUANTILE, parameter
from maitre.scheduling.snapshot import JobView, Pool, Snapshot


@dataclass(frozen=True)
class Infless:
    """Parameters: the keep-alive quantile and cap, the histograms' windows and their weights."""

    keep_alive_quantile: float = parameter(0.99, QUANTILE)
    keep_alive_cap_s: float = parameter(60.0)
    long_window_s: float = parameter(86_400.0)
    short_window_s: float = parameter(3_600.0)
    long_weight: float = parameter(0.5)
    name: str = "infless"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Start what has instances, start instances for the rest, stop what idled too long."""
        fleet = Fleet(snapshot)
        actions: list[Action] = []
        spare: dict[str, list[str]] = {}
        for name, pool in snapshot.pools.items():
            started, spare[name] = self._dispatch(pool, snapshot.time_s, fleet)
            actions += started
        wake_s = float("inf")
        for name, pool in snapshot.pools.items():
            keep_s = self.keep_alive_s(pool.arrivals_s, snapshot.time_s)
            windows_s = [(w, keep_s) for w in spare[name] if w not in fleet.taken]
            stopped, ends_s = stop_idle(pool, snapshot.time_s, windows_s)
            actions += stopped
            wake_s = min(wake_s, ends_s)
        if wake_s < float("inf"):
            actions.append(WaitUntil(wake_s))
        return actions

    def _dispatch(self, pool: Pool, time_s: float, fleet: Fleet) -> tuple[list[Action], list[str]]:
        """Give queued jobs, first come first served, workers: idle, then loading, then new ones."""
        idle = idle_workers(pool)
        if not pool.queued:
            return [], idle
        actions: list[Action] = []
        loading = loading_until_s(pool)
        new = 0
        room = fleet.room(pool.model.name)
        for job in pool.queued.values():
            workers = self._instance(pool, job, time_s, len(idle), loading, room - new)
            if workers is None:
                break
            if workers <= len(idle):
                actions.append(StartJob(job.job_id, tuple(idle[:workers])))
                del idle[:workers]
                continue
            short = workers - len(idle)
            idle.clear()
            new += max(0, short - len(loading))
            del loading[:short]
        if new:
            actions += fleet.grow(pool.model.name, new)
        return actions, idle

    def _instance(
        self,
        pool: Pool,
        job: JobView,
        time_s: float,
        idle: int,
        loading: Sequence[float],
        room: int,
    ) -> int | None:
        """Return the cheapest allowed number of workers in time; if late, the cheapest."""
        model = pool.model
        possible = None
        for workers in model.counts_by_cost:
            if workers > idle + len(loading) + room:
                continue
            possible = workers if possible is None else possible
            if workers <= idle:
                start_s = time_s
            elif workers <= idle + len(loading):
                start_s = loading[workers - idle - 1]
            else:
                start_s = time_s + model.warm_up_s
            if start_s + run_s(model, job, workers) <= job.deadline_s:
                return workers
        return possible

    def keep_alive_s(self, arrivals_s: Sequence[float], time_s: float) -> float:
        """Return the window that covers `keep_alive_quantile` of long-term and recent gaps."""
        long_s = self._quantile_s(arrivals_s, time_s - self.long_window_s)
        short_s = self._quantile_s(arrivals_s, time_s - self.short_window_s)
        mixed_s = self.long_weight * long_s + (1 - self.long_weight) * short_s
        return min(self.keep_alive_cap_s, mixed_s)

    def _quantile_s(self, arrivals_s: Sequence[float], since_s: float) -> float:
        first = max(bisect_left(arrivals_s, since_s), len(arrivals_s) - 500)
        recent = arrivals_s[first:]
        if len(recent) < 2:
            return self.keep_alive_cap_s
        gaps = sorted(after - before for before, after in pairwise(recent))
        return gaps[min(len(gaps) - 1, int(self.keep_alive_quantile * len(gaps)))]
