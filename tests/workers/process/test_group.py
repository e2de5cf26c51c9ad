"""Several workers for one run, with real processes: all of them or none, and what if one goes."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dagster as dg
import pytest

from maitre.workers.launch.dagster_internals import (
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
)
from maitre.workers.leases import LeaseState
from maitre.workers.pool.protocol import ClaimView
from tests.workers.launch.test_dagster_contract import (
    LONG,
    SOME,
    ends,
    launcher,
    monitor_until_ended,
)
from tests.workers.live import Live, until

ONCE = ["ASSET_MATERIALIZATION", "PIPELINE_SUCCESS"]


def claims(live: Live) -> dict[str, ClaimView]:
    """What each busy worker works on."""
    return {w.name: w.view.claim for w in live.pool.workers() if w.view and w.view.claim}


def try_to_launch(live: Live, run_id: str) -> bool:
    run = live.instance.get_run_by_id(run_id)
    assert run is not None
    try:
        launcher(live).launch_run(LaunchRunContext(run, None))
    except DagsterUserCodeUnreachableError:
        return False
    return True


def all_idle(live: Live) -> None:
    until(lambda: all(worker.is_idle for worker in live.pool.workers()))


def test_two_workers_tune_one_run_and_come_to_what_one_comes_to(live: Live) -> None:
    names = live.start_workers(2)[:2]
    both = live.launch(tags={"maitre/workers": ",".join(names)}, **{**SOME, "max_iterations": 60})
    live.tuning_on(both, after_iteration=3)
    held = claims(live)
    assert sorted(held) == sorted(names)
    assert sorted((c.rank, c.size, c.run_id) for c in held.values()) == [(0, 2, both), (1, 2, both)]
    assert live.ended(both) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, both) == ONCE
    all_idle(live)
    alone = live.launch(**{**SOME, "max_iterations": 60})
    assert live.ended(alone) is dg.DagsterRunStatus.SUCCESS

    def loss(run_id: str) -> float:
        events = live.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        made = events[0].asset_materialization
        assert made is not None
        return float(made.metadata["eval_loss"].value)

    assert loss(both) == pytest.approx(loss(alone), rel=0.05)


def test_all_workers_are_claimed_or_none(live: Live) -> None:
    names = live.start_workers(2)[:2]
    busy = live.launch(tags={"maitre/workers": names[1]}, **LONG)
    live.tuning_on(busy)
    group = live.create_run(tags={"maitre/workers": ",".join(names)}, **SOME)
    assert not try_to_launch(live, group)
    assert sorted(claims(live)) == [names[1]]
    # One that has become busy since it was looked at refuses; who was claimed is let go.
    seen = [worker for worker in live.pool.workers() if worker.name in names]
    view = next(worker.view for worker in seen if worker.is_idle)
    idle = [replace(worker, view=view) for worker in seen]
    run = live.instance.get_run_by_id(group)
    assert run is not None
    assert not launcher(live).place(run, live.pool, [idle], None)
    lease = live.leases.current(group)
    assert lease is not None
    assert lease.state is LeaseState.RELEASED
    until(lambda: sorted(claims(live)) == [names[1]])
    launcher(live).terminate(busy)
    live.ended(busy)


def test_two_groups_of_the_same_workers_do_not_block_each_other(live: Live) -> None:
    names = live.start_workers(2)[:2]
    runs = [
        live.create_run(tags={"maitre/workers": ",".join(order)}, **SOME)
        for order in (names, names[::-1])
    ]
    waiting = list(runs)
    while waiting:
        with ThreadPoolExecutor(len(waiting)) as threads:
            placed = list(threads.map(lambda run_id: try_to_launch(live, run_id), waiting))
        assert sum(placed) <= 1
        for run_id, is_placed in zip(list(waiting), placed, strict=True):
            if is_placed:
                waiting.remove(run_id)
                assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
        all_idle(live)
    assert [ends(live, run_id) for run_id in runs] == [ONCE] * 2


def test_a_group_stops_together_and_its_run_can_go_on_alone(live: Live) -> None:
    names = live.start_workers(2)[:2]
    run_id = live.launch(tags={"maitre/workers": ",".join(names)}, **SOME)
    live.tuning_on(run_id, after_iteration=12)
    lease = live.leases.current(run_id)
    assert lease is not None
    # As the scheduler resizes a job: stop at the next step, then start elsewhere.
    live.pool.client(lease.url).preempt(lease.attempt)
    all_idle(live)
    released = live.leases.current(run_id)
    assert released is not None
    assert released.state is LeaseState.RELEASED
    run = live.instance.get_run_by_id(run_id)
    assert run is not None
    assert launcher(live).take_over(run, live.pool, live.pool.workers()[:1])
    assert live.ended(run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ONCE
    cancelled = live.launch(tags={"maitre/workers": ",".join(names)}, **LONG)
    live.tuning_on(cancelled, after_iteration=3)
    assert launcher(live).terminate(cancelled)
    assert live.ended(cancelled) is dg.DagsterRunStatus.CANCELED
    all_idle(live)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_that_loses_a_worker_goes_on_from_its_checkpoint(live: Live, rank: int) -> None:
    names = live.start_workers(2)[:2]
    run_id = live.launch(tags={"maitre/workers": ",".join(names)}, **SOME)
    live.tuning_on(run_id, after_iteration=25)
    victim = next(name for name, claim in claims(live).items() if claim.rank == rank)
    os.kill(live.pid(victim), signal.SIGKILL)
    assert monitor_until_ended(live, run_id) is dg.DagsterRunStatus.SUCCESS
    assert ends(live, run_id) == ONCE
    lease = live.leases.current(run_id)
    assert lease is not None
    assert (lease.number, lease.others) == (2, ())
    assert victim != lease.worker
    all_idle(live)
