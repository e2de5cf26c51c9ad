"""With what the scheduler plans."""

from pathlib import Path

import pytest
import yaml

from maitre.settings import Settings
from maitre.workers.scheduling.cluster_file import planned_cluster


@pytest.mark.parametrize(
    ("warm_pool", "planned"), [("local", {"tiny"}), ("kubernetes", {"tiny", "another"})]
)
def test_a_local_pool_is_planned_with_the_one_model_that_it_holds(
    tmp_path: Path, warm_pool: str, planned: set[str]
) -> None:
    """Its workers would be given back for a model that nobody could start."""
    model = {"warm_up_s": 10, "lookup_s": 2, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": 2, "gpu_price_per_hour": 1.0, "models": {"tiny": model, "another": model}}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster))
    settings = Settings.model_validate(
        {"base_model": "models/tiny", "cluster": str(path), "warm_pool": warm_pool}
    )
    assert set(planned_cluster(settings).models) == planned
