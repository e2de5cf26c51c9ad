"""What a plan of one pool may assume, and what it comes to."""

from dataclasses import dataclass, field

from maitre.scheduling.actions import Action


@dataclass(frozen=True, slots=True)
class PlanParameters:
    """What the plan may assume; see `Maitre`."""

    finish_quantile: float
    release_quantile: float
    fallback_quantiles: tuple[float, ...]
    hopeless_quantile: float
    rescue_quantile: float
    preempt: bool
    lookup: bool
    lookup_ahead: bool
    reject_hopeless: bool
    usable_share: float
    gpus: int
    crowded_dearest: float


@dataclass(slots=True)
class PoolPlan:
    """The outcome: actions to take, how many workers to load, and who stays reserved."""

    actions: list[Action] = field(default_factory=list)
    grow: int = 0
    spare: list[str] = field(default_factory=list)  # idle workers that nothing needs, best first
    behind: int = 0  # queued jobs that are not expected to be in time
