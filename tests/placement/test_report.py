"""The HTML page about a plan."""

from maitre.placement.plan import AdapterShare, PlacementPlan, PlannedServer, Prediction
from maitre.placement.report import plan_page
from maitre.twin.limits import VllmLimits

CONFIG = {
    "max_loras": 8,
    "max_cpu_loras": 8,
    "max_lora_rank": 8,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
}


def test_the_page_is_self_contained_and_escapes_names() -> None:
    held = (AdapterShare("<script>alert(1)</script>"),)
    server = PlannedServer(
        "s<0>", "m", VllmLimits(**CONFIG), held,
        Prediction(1.5, 600.0, 0.01, 0.9, 0.5, 12.0, 80.0, "KV cache"),
    )  # fmt: skip
    plan = PlacementPlan("p", (server,), 1, {"round_robin": 2})
    page = plan_page(plan, diff=plan.diff(plan))
    assert "s&lt;0&gt;" in page
    assert "<script>alert(1)" not in page
    assert 'src="http' not in page
    assert "round_robin" in page
