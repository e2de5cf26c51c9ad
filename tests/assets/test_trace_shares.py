"""The steps of a fan-out simulate each batch once, and where they are executed."""

from pathlib import Path

import dagster as dg
import pytest
from dagster_k8s import k8s_job_executor

from assets import trace_shares
from assets.trace_shares import SHARES, batch_sizes, simulate_traces
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.settings import Settings
from resources.step_executor import step_executor


def test_the_shares_are_all_batches_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int, int]] = []

    def simulated(_: object, __: object, batch: int, size: int, config: object) -> list[None]:
        done.append((batch, size, config.seed))  # type: ignore[attr-defined]
        return [None] * size

    monkeypatch.setattr(trace_shares, "batch_of_traces", simulated)
    given = {
        "home": DataHome(root=str(tmp_path)),
        "inputs": Inputs(
            tasks="", held_back=[], adapters="", profile="h100-64gb/llama-3.1-8b-instruct"
        ),
    }
    job = simulate_traces(dg.in_process_executor)
    resources = {name: dg.ResourceDefinition.hardcoded_resource(r) for name, r in given.items()}
    defs = dg.Definitions(jobs=[job], resources=resources)
    config = {"configurations": 1850, "seed": 3}
    assert defs.resolve_job_def("simulate_traces").execute_in_process(run_config=config).success
    assert sorted(done) == [(batch, 100 if batch < 18 else 50, 3) for batch in range(19)]


def test_batches_hold_what_is_asked_for() -> None:
    assert batch_sizes(250) == [100, 100, 50]
    assert len(batch_sizes(10_000)) > SHARES
    with pytest.raises(ValueError, match="configurations is 10001"):
        batch_sizes(10_001)


def test_steps_are_pods_where_the_workers_are() -> None:
    assert step_executor(Settings(warm_pool="kubernetes")) is k8s_job_executor
    assert step_executor(Settings(warm_pool="local")) is dg.multiprocess_executor
