"""Maitre's own policy: preemption, worth of a lookup, learned error, learned idle windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from maitre.scheduling.actions import Action, LoadModel, StartWorkers, WaitUntil
from maitre.scheduling.policies.idle_window import idle_windows_s, stop_idle
from maitre.scheduling.policies.parameters import QUANTILE, SHARE, parameter
from maitre.scheduling.policies.plan_parameters import PlanParameters
from maitre.scheduling.policies.pool_plan import plan_crowded_pool, plan_pool
from maitre.scheduling.snapshot import Pool, Snapshot


@dataclass(frozen=True)
class Maitre:
    """Parameters.

    `finish_quantile`: how sure a plan wants to be that a job ends in time; `release_quantile`: when
    the workers of the jobs before it are taken to be free; `warmth`: what a warm worker is worth
    when needed, in warm-ups; the switches turn single ideas off, for ablation.
    `reject_hopeless` rejects what can no longer be in time: a violation either way, at less cost,
    but the owner of the job gets nothing.
    """

    finish_quantile: float = parameter(0.9, QUANTILE)
    release_quantile: float = parameter(0.75, QUANTILE)
    fallback_quantiles: tuple[float, ...] = parameter((0.7, 0.5, 0.25), QUANTILE)
    hopeless_quantile: float = parameter(0.05, QUANTILE)
    rescue_quantile: float = parameter(0.75, QUANTILE)
    warmth: float = parameter(0.4)
    usable_share: float = parameter(0.9, SHARE)
    crowded_dearest: float = parameter(1.1)
    preempt: bool = True
    lookup: bool = True
    lookup_ahead: bool = True
    reject_hopeless: bool = False
    name: str = "maitre"

    def decide(self, snapshot: Snapshot) -> Sequence[Action]:
        """Plan every pool, then give back the idle workers that are not worth keeping."""
        parameters = PlanParameters(
            self.finish_quantile,
            self.release_quantile,
            self.fallback_quantiles,
            self.hopeless_quantile,
            self.rescue_quantile,
            self.preempt,
            self.lookup,
            self.lookup_ahead,
            self.reject_hopeless,
            self.usable_share,
            snapshot.cluster.gpus,
            self.crowded_dearest,
        )
        cold = snapshot.cold
        actions: list[Action] = []
        idle = sum(len(pool.idle) for pool in snapshot.pools.values())
        plans = {
            name: plan_pool(pool, snapshot.time_s, cold + idle - len(pool.idle), parameters)
            for name, pool in snapshot.pools.items()
        }
        wanted = sum(plan.grow for plan in plans.values())
        spare = {name: plan.spare for name, plan in plans.items()}
        room = cold + sum(len(workers) for workers in spare.values())
        if wanted > room:
            grow = {name: plan.grow for name, plan in plans.items()}
            for name, share in _shares(snapshot, grow, room).items():
                pool = snapshot.pools[name]
                if plans[name].grow > share:
                    plans[name] = plan_crowded_pool(pool, snapshot.time_s, share, parameters)
                    spare[name] = plans[name].spare
        for name, plan in plans.items():
            actions += plan.actions
            fresh = min(plan.grow, cold)
            cold -= fresh
            if fresh:
                actions.append(StartWorkers(name, fresh))
            lendable = _longest_idle_first(snapshot, spare)
            for lender, worker in lendable[: plan.grow - fresh]:
                spare[lender].remove(worker)
                actions.append(LoadModel(worker, name))
        wake_s = float("inf")
        for name, pool in snapshot.pools.items():
            stopped, ends_s = self._give_back(pool, snapshot.time_s, spare[name])
            actions += stopped
            wake_s = min(wake_s, ends_s)
            if pool.queued or pool.running:
                wake_s = min(wake_s, snapshot.time_s + 2.0)
        if wake_s < float("inf"):
            actions.append(WaitUntil(wake_s))
        return actions

    def _give_back(
        self, pool: Pool, time_s: float, spare: Sequence[str]
    ) -> tuple[list[Action], float]:
        """Stop idle workers past their window; also return when the next window ends."""
        if not spare:
            return [], float("inf")
        warmth_s = self.warmth * pool.model.warm_up_s
        windows = idle_windows_s(pool, time_s, len(spare), warmth_s)
        return stop_idle(pool, time_s, zip(spare, windows, strict=True))


def _shares(snapshot: Snapshot, wanted: Mapping[str, int], room: int) -> dict[str, int]:
    """Return each pool's share of `room` workers; the least GPU time per queued job comes first."""
    shares = {}
    for name in sorted(wanted, key=lambda name: _mean_gpu_s(snapshot.pools[name])):
        shares[name] = min(room, wanted[name])
        room -= shares[name]
    return shares


def _mean_gpu_s(pool: Pool) -> float:
    """Return the mean GPU-seconds of a queued job, at the least, with a warm-up."""
    model = pool.model
    iterations = [
        min(job.iterations_cold_estimate, job.iterations_bank_estimate)
        for job in pool.queued.values()
    ]
    mean = sum(iterations) / max(1, len(iterations))
    return mean * model.least_gpu_s_per_iteration + model.warm_up_s * model.counts_by_cost[0]


def _longest_idle_first(snapshot: Snapshot, spare: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return (pool, worker) of the workers that planned pools can lend, longest idle first."""
    lendable = [(name, worker) for name, workers in spare.items() for worker in workers]
    return sorted(lendable, key=lambda item: snapshot.pools[item[0]].idle[item[1]].since_s)
