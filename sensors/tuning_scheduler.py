"""`tuning_scheduler`: starts runs for tuning requests, on the workers that the policy chooses."""

import dagster as dg

from assets.tuning.tuned_prompts import TASKS
from maitre.requests import TuningRequest
from maitre.settings import Settings
from maitre.workers.launch.dagster_runs import DagsterRuns
from maitre.workers.launch.request_states import without_run
from maitre.workers.launch.run_tags import config_of, tags_of
from maitre.workers.pool.factory import pool_of
from maitre.workers.running_services import with_running_services
from maitre.workers.scheduling.cluster_file import planned_cluster, unplanned
from maitre.workers.scheduling.round import HOLD_S, StartRun, now_utc, open_requests
from maitre.workers.scheduling.tick import Tick
from resources.request_queue import RequestQueue


@dg.sensor(
    job_name="tune",
    # The daemon checks its sensors every 5 s. An interval of 5 s would often not be over yet at
    # such a check, and the daemon would call this sensor every 10 s.
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def tuning_scheduler(
    context: dg.SensorEvaluationContext,
    request_queue: RequestQueue,
    settings: dg.ResourceParam[Settings],
) -> dg.SensorResult:
    """Write the states of runs to the queue; for a few seconds let the policy start and scale.

    Without warm workers every queued request gets a run at once, the earliest deadline first. Only
    the round that takes a request starts its run, and the run key is that of the attempt: any
    number of daemons start it once.
    """
    store = request_queue.store()
    queued: set[TuningRequest] = set()

    def without_runs(requests: list[TuningRequest]) -> list[TuningRequest]:
        return without_run(context.instance, store, requests, queued)

    pool = pool_of(settings)
    if pool is None:
        now = now_utc()
        starts = [
            StartRun(request, lookup=request.lookup)
            for request in without_runs(open_requests(store))
            if store.take(request.request_id, owner="sensor", now=now, hold_s=HOLD_S)
        ]
    else:
        for note in unplanned(settings, store.count_queued()):
            context.log.warning(note)
        models = planned_cluster(settings).models
        completed = with_running_services(settings)
        runs = DagsterRuns(completed, context.instance)
        starts = Tick(
            completed,
            runs,
            pool,
            lambda: without_runs(open_requests(store, models)),
            context.log.info,
        ).starts()
    tasks = sorted({start.request.task for start in starts})
    return dg.SensorResult(
        run_requests=[_run_request(start) for start in starts],
        dynamic_partitions_requests=[TASKS.build_add_request(tasks)] if tasks else [],
    )


def _run_request(start: StartRun) -> dg.RunRequest:
    request = start.request
    return dg.RunRequest(
        run_key=request.run_key,
        partition_key=request.task,
        tags=tags_of(request, start.workers),
        run_config=config_of(request, start.lookup),
    )
