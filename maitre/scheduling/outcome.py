"""What became of every job, and what it cost."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Outcome:
    """Violations and cost of one run, in jobs, GPU-hours and the cluster's currency."""

    policy: str
    jobs: int
    finished: int
    late: int
    rejected: int
    unfinished: int
    violations: int
    violation_rate: float
    gpu_hours: float
    cost: float
    busy_gpu_hours: float
    lookup_gpu_hours: float
    warming_gpu_hours: float
    idle_gpu_hours: float
    worker_starts: int
    preemptions: int
    resizes: int
    lookups: int
    peak_gpus: int
    makespan_s: float
    decisions: int

    def row(self) -> dict[str, object]:
        """Return a flat dictionary, for tables and JSON."""
        return asdict(self)
