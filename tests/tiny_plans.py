"""Small placement plans for tests of servers, manifests and routes."""

from collections.abc import Mapping

from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer
from maitre.twin.limits import VllmLimits

LIMITS = VllmLimits(
    max_loras=4,
    max_cpu_loras=4,
    max_lora_rank=8,
    max_num_seqs=8,
    max_num_batched_tokens=512,
)


def tiny_plan(
    servers: Mapping[str, Mapping[str, float]],
    limits: VllmLimits = LIMITS,
    *,
    base_model: str = "tiny",
    profile: str = "cpu/tiny",
) -> PlacementPlan:
    """Return a plan: for each server the shares of its adapters."""
    return PlacementPlan(
        profile,
        tuple(
            PlannedServer(
                name, base_model, limits, tuple(AdapterShare(a, share) for a, share in held.items())
            )
            for name, held in servers.items()
        ),
    )
