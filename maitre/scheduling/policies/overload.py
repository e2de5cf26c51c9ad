"""Which jobs to give up when not all can be in time: the largest, and as few as possible.

Moore and Hodgson's rule (1968), with a pool's workers taken as one fluid machine: the work is added
up by deadline; where it exceeds what the workers can do by then, the largest job so far is dropped.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate


def jobs_to_drop(
    demand: Iterable[tuple[float, str, float]], free_s: Sequence[float], usable_share: float
) -> frozenset[str]:
    """Return the jobs to leave behind.

    `demand` is (deadline_s, job, GPU-seconds); `free_s` is when each worker comes free.
    `usable_share` is the share of the workers' possible work by a deadline that is counted on.
    """
    starts_s = sorted(free_s)
    sums_s = [0.0, *accumulate(starts_s)]
    work_s = 0.0
    largest: list[tuple[float, str]] = []
    dropped = set()
    for deadline_s, job_id, gpu_s in sorted(demand):
        work_s += gpu_s
        heapq.heappush(largest, (-gpu_s, job_id))
        workers = bisect_left(starts_s, deadline_s)
        possible_s = usable_share * (workers * deadline_s - sums_s[workers])
        while work_s > possible_s and largest:
            negative_s, job = heapq.heappop(largest)
            work_s += negative_s
            dropped.add(job)
    return frozenset(dropped)
