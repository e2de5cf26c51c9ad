"""Re-placement: few moves, nothing lost, nobody unserved."""

import numpy as np
import pytest

from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.place import place
from maitre.placement.plan import PlacementPlan
from maitre.placement.replan import replan
from maitre.twin import ServerProfile


@pytest.fixture(scope="module")
def catalogue() -> AdapterCatalogue:
    import pandas as pd

    rng = np.random.default_rng(4)
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(300)],
                "base_model": "llama-3.1-8b-instruct",
                "rank": rng.choice([8, 16, 32], 300),
                "rate_rps": np.exp(rng.normal(np.log(0.2), 1.2, 300)).clip(0.001, 8),
            }
        )
    )


@pytest.fixture(scope="module")
def plan(catalogue: AdapterCatalogue, profile: ServerProfile) -> PlacementPlan:
    return place(catalogue, profile, check_duration_s=0, baselines=False)


@pytest.mark.slow
def test_unchanged_rates_move_nobody(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    assert plan.diff(replan(plan, catalogue, profile)).empty


@pytest.mark.slow
def test_changed_rates_move_few(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    rng = np.random.default_rng(1)
    rates = catalogue.rates_rps.copy()
    changed = rng.choice(len(rates), 15, replace=False)
    rates[changed] *= np.where(rng.random(15) < 0.5, 2.0, 0.5)
    after = replan(plan, catalogue.with_rates(rates), profile)
    diff = plan.diff(after)
    assert set(after.servers_of()) == set(catalogue.names)
    assert len(diff.moves) <= 9
    assert abs(after.gpus - plan.gpus) <= 1
    assert max(s.predicted.starvation_risk for s in after.servers) <= 0.01


@pytest.mark.slow
def test_new_and_removed_adapters(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    frame = catalogue.frame().iloc[10:]
    frame.loc[frame.index[0], "adapter"] = "newcomer"
    after = replan(plan, AdapterCatalogue.from_frame(frame), profile)
    diff = plan.diff(after)
    assert diff.adapters_added == ("newcomer",)
    assert len(diff.adapters_removed) == 11
    assert not diff.moves


@pytest.mark.slow
def test_closing_servers_needs_a_budget(
    plan: PlacementPlan, catalogue: AdapterCatalogue, profile: ServerProfile
) -> None:
    calm = catalogue.with_rates(catalogue.rates_rps * 0.4)
    kept = replan(plan, calm, profile)
    fewer = replan(plan, calm, profile, max_closing_moves=150)
    assert kept.gpus == plan.gpus
    assert fewer.gpus < plan.gpus
    assert len(plan.diff(fewer).moves) <= 150


def test_an_adapter_hotter_than_a_server_is_divided(profile: ServerProfile) -> None:
    import pandas as pd

    few = AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(12)],
                "base_model": "llama-3.1-8b-instruct",
                "rank": 8,
                "rate_rps": 0.2,
            }
        )
    )
    plan = place(few, profile, check_duration_s=0, baselines=False)
    rates = few.rates_rps.copy()
    rates[3] = 60.0
    after = replan(plan, few.with_rates(rates), profile)
    shares = after.servers_of()["a3"]
    assert len(shares) >= 2
    assert sum(shares.values()) == pytest.approx(1.0)
    assert not after.evidence.servers_over_risk
    assert max(server.predicted.starvation_risk for server in after.servers) <= 0.05
    rates[3] = 1e9
    with pytest.raises(ValueError, match=r"a3.*fits no server"):
        replan(plan, few.with_rates(rates), profile)
