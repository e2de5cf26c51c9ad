"""The cheapest schedule of a tiny instance, by exhaustive search over whole seconds.

One model; every second each job gets no worker, an allowed number of ready ones, or a lookup on one
of them; workers are started and stopped freely. With resize cost 0 every such schedule keeps
the contract, so the optimum is the cost of a real schedule and no valid bound is above it.
"""

from functools import cache
from itertools import product

from maitre.scheduling import Cluster, Job

INFINITE = float("inf")


def cheapest_gpu_s(jobs: tuple[Job, ...], cluster: Cluster, violations: int) -> float:
    """GPU-seconds of the cheapest schedule with at most `violations`; infinite if there is none."""
    (model,) = cluster.models.values()
    assert model.resize_s == 0
    horizon = int(max(job.deadline_s for job in jobs))
    warm_up, lookup = int(model.warm_up_s), int(model.lookup_s)
    counts = [k for k in model.iteration_s if k <= cluster.gpus]

    # A job: ("fresh",), ("lookup", seconds left), ("banked",), ("run", work left), ("done",)
    # Work is counted in 1/12 iterations, so that 12 / iteration_s[k] is whole.
    speed = {k: round(12 / model.iteration_s[k]) for k in counts}

    def choices(index: int, state: tuple, now: int) -> list[tuple[int, tuple]]:
        """(workers used this second, state after it)."""
        job = jobs[index]
        stay = [(0, state)]
        if state[0] == "done" or now < job.submitted_s:
            return stay
        if state[0] == "lookup":
            left = state[1] - 1
            return [(1, ("lookup", left) if left else ("banked",))]
        if state[0] == "fresh" and lookup:
            after = ("lookup", lookup - 1) if lookup > 1 else ("banked",)
            stay.append((1, after))
        work = {"fresh": 12 * job.iterations_cold, "banked": 12 * job.iterations_bank}
        left = state[1] if state[0] == "run" else work[state[0]]
        for k in counts:
            rest = left - speed[k]
            stay.append((k, ("run", rest) if rest > 0 else ("done",)))
        return stay

    @cache
    def best(now: int, ready: int, loading: tuple[int, ...], states: tuple) -> float:
        missed = sum(
            state[0] != "done" and now >= job.deadline_s
            for job, state in zip(jobs, states, strict=True)
        )
        if missed > violations:
            return INFINITE
        if now >= horizon or all(state[0] == "done" for state in states):
            return 0.0
        cheapest = INFINITE
        for keep in range(ready + 1):
            room = cluster.gpus - keep - len(loading)
            for start in range(room + 1):
                after = sorted([*loading, *[warm_up] * start])
                now_ready = keep + sum(left == 0 for left in after)
                held = keep + len(after)
                next_loading = tuple(left - 1 for left in after if left > 0)
                grown = sum(left == 0 for left in next_loading)
                waiting = tuple(left for left in next_loading if left > 0)
                for plan in product(*(choices(i, state, now) for i, state in enumerate(states))):
                    if sum(used for used, _ in plan) > now_ready:
                        continue
                    rest = best(now + 1, now_ready + grown, waiting, tuple(s for _, s in plan))
                    cheapest = min(cheapest, held + rest)
        return cheapest

    return best(0, 0, (), tuple(("fresh",) for _ in jobs))
