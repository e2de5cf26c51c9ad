"""Scheduling of tuning jobs: deadlines met with the fewest GPU-hours.

A `Policy` turns a `Snapshot` into actions; `simulate` drives it through a cluster and writes the
event log; `replay` checks such a log and recomputes violations and cost.
"""

from maitre.scheduling.cluster import Cluster, ModelSpec, read_cluster
from maitre.scheduling.errors import PolicyError, SchedulingError
from maitre.scheduling.events import Event, read_events, write_events
from maitre.scheduling.jobs import Job, read_jobs, write_jobs
from maitre.scheduling.outcome import Outcome
from maitre.scheduling.policies import POLICIES, named_policy
from maitre.scheduling.policy import Policy
from maitre.scheduling.replay import Replay, replay
from maitre.scheduling.simulator import Simulation, simulate
from maitre.scheduling.snapshot import Completion, JobView, Pool, RunningJob, Snapshot, Worker

__all__ = [
    "POLICIES",
    "Cluster",
    "Completion",
    "Event",
    "Job",
    "JobView",
    "ModelSpec",
    "Outcome",
    "Policy",
    "PolicyError",
    "Pool",
    "Replay",
    "RunningJob",
    "SchedulingError",
    "Simulation",
    "Snapshot",
    "Worker",
    "named_policy",
    "read_cluster",
    "read_events",
    "read_jobs",
    "replay",
    "simulate",
    "write_events",
    "write_jobs",
]
