"""The steps of a fan-out simulate each batch once, and where they are executed."""

from pathlib import Path

import dagster as dg
import pytest
from dagster_k8s import k8s_job_executor

from assets.serving import trace_batches, trace_fanout_job
from assets.serving.trace_batches import TracesConfig, batch_sizes, refined_configurations
from assets.serving.trace_fanout_job import SHARES, simulate_traces
from assets.serving.twin_traces import twin_traces
from maitre.settings import Settings
from maitre.twin import ServerProfile
from pipelines.step_executor import step_executor
from resources.data_home import DataHome
from resources.inputs import Inputs
from resources.mlflow_tracking import MlflowTracking


def test_the_shares_are_all_batches_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int, int]] = []

    def simulated(_: object, __: object, batch: int, size: int, config: object) -> list[None]:
        done.append((batch, size, config.seed))  # type: ignore[attr-defined]
        return [None] * size

    monkeypatch.setattr(trace_fanout_job, "batch_of_traces", simulated)
    given = {
        "home": DataHome(root=str(tmp_path)),
        "inputs": Inputs(
            tasks="", held_back=[], adapters="", profile="h100-64gb/llama-3.1-8b-instruct"
        ),
    }
    job = simulate_traces(dg.in_process_executor)
    resources = {name: dg.ResourceDefinition.hardcoded_resource(r) for name, r in given.items()}
    defs = dg.Definitions(jobs=[job], resources=resources)
    config = {"configurations": 2250, "seed": 3}
    assert defs.resolve_job_def("simulate_traces").execute_in_process(run_config=config).success
    assert sorted(done) == [(batch, 100 if batch < 18 else 50, 3) for batch in range(19)]


def test_batches_hold_what_is_asked_for() -> None:
    assert sizes(250) == [100, 100, 50]
    assert len(sizes(10_000)) > SHARES
    with pytest.raises(ValueError, match="configurations: expected 1 to 10000; got 10001"):
        sizes(10_001)


def sizes(configurations: int) -> list[int]:
    return batch_sizes(TracesConfig(configurations=configurations, refined_share=0.0))


def test_what_active_learning_chooses_is_no_batch() -> None:
    """1050: 200 of them are refined, and the last batch has 50 configurations, not 100."""
    config = TracesConfig(configurations=1050)
    assert batch_sizes(config) == [100] * 8 + [50]
    assert sum(batch_sizes(config)) + refined_configurations(config) == 1050
    with pytest.raises(ValueError, match=r"refined_share: .* got 1"):
        batch_sizes(TracesConfig(refined_share=1.0))


def test_twin_traces_finds_what_the_shares_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a profile that was fitted here and ships with nobody."""
    home = DataHome(root=str(tmp_path / "home"))
    shipped = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
    mine = shipped.model_copy(update={"name": "mine/only"})
    home.write_fitted_profile("mine-only", mine)
    monkeypatch.setattr(trace_batches, "BATCH", 4)
    given = {
        "home": home,
        "inputs": Inputs(tasks="", held_back=[], adapters="", profile="mine/only"),
        "mlflow": MlflowTracking(
            tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db", ui_url="http://127.0.0.1:5000"
        ),
    }
    asked = {"configurations": 10, "duration_s": 10.0, "refined_share": 0.4}
    hardcoded = {name: dg.ResourceDefinition.hardcoded_resource(r) for name, r in given.items()}
    defs = dg.Definitions(jobs=[simulate_traces(dg.in_process_executor)], resources=hardcoded)
    assert defs.resolve_job_def("simulate_traces").execute_in_process(run_config=asked).success
    folder = f"twin_traces/{mine.fingerprint()}"
    there = set(home.files().list_folder(folder))
    assert len(there) == 2
    made = dg.materialize(
        [twin_traces],
        resources=given,
        run_config={"ops": {"twin_traces": {"config": asked}}},
    )
    assert made.success
    batches = {name for name in home.files().list_folder(folder) if not name.startswith("refined")}
    assert batches == there, "nothing was simulated again"


def test_steps_are_pods_where_the_workers_are() -> None:
    assert step_executor(Settings(warm_pool="kubernetes")) is k8s_job_executor
    assert step_executor(Settings(warm_pool="local")) is dg.multiprocess_executor
