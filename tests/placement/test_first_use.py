"""The installation's first use of what is compiled."""

import pytest

from maitre.placement.first_use import used_once


@pytest.mark.slow
def test_everything_that_is_compiled_is_used() -> None:
    plan = used_once()
    assert plan.evidence.servers_checked == plan.gpus >= 1
    assert plan.lower_bound_gpus >= 1
    assert "best_fit_by_rate" in plan.baselines
