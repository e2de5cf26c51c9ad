from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from maitre.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = {"warm_up_s": 10, "lookup_s": 2, "resize_s": 1, "iteration_s": {1: 0.5}}
    cluster = {"gpus": 4, "gpu_price_per_hour": 1.0, "models": {"tiny": model}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    return Settings(
        home=str(tmp_path / "home"),
        base_model="models/tiny",
        cluster=str(tmp_path / "cluster.yaml"),
        request_queue_url=f"sqlite:///{tmp_path}/requests.db",
        min_warm_workers=1,
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made
