"""The bank's assets: partitions, capacity, use and quality, on a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.tuning.bank_prompts import bank_prompts
from assets.tuning.bank_quality import bank_quality
from assets.tuning.prompt_bank import bank_url, load_bank, prompt_bank
from assets.tuning.record_reuse import record_reuse
from assets.tuning.tuning_tasks import BANK_TASKS_NAME, tuning_tasks
from maitre.bank.lookup import Candidate, Lookup
from maitre.settings import Settings
from maitre.tuning.config import TuneResult
from maitre.tuning.tasks import find_task
from pipelines.walkthrough.staleness import why_stale
from resources.data_home import DataHome
from resources.language_model import LanguageModel
from resources.wiring import resources
from tests.halves import TUNING, TUNING_GRAPH
from tests.tiny_inputs import write_model, write_tasks

CONFIG = {
    "bank_prompts": {"iterations": 1, "virtual_tokens": 2, "batch_size": 4},
    "prompt_bank": {"capacity": 1},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("bank")
    return Settings(
        home=str(folder / "home"),
        base_model=str(write_model(folder / "model")),
        tasks=str(write_tasks(folder / "tasks", ("first", "second", "third", "fourth"))),
        held_back=("fourth",),
        request_queue_url=f"sqlite:///{folder}/home/requests.db",
        mlflow_tracking_uri=f"sqlite:///{folder}/home/mlflow/mlflow.db",
    )


def make(
    instance: dg.DagsterInstance, settings: Settings, *names: str, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*TUNING, bank_quality],
        selection=dg.AssetSelection.assets(*names),
        instance=instance,
        resources=resources(settings),
        partition_key=partition,
        run_config={"ops": {name: {"config": CONFIG[name]} for name in names if name in CONFIG}},
    )


@pytest.fixture(scope="module")
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        assert make(made, settings, "task_files", "base_model", "tuning_tasks").success
        assert make(made, settings, "bank_prompts").success
        assert make(made, settings, "prompt_bank").success
        yield made


def test_every_task_of_the_bank_is_a_partition(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    names = {"first", "second", "third"}
    assert set(instance.get_dynamic_partitions(BANK_TASKS_NAME)) == names
    assert instance.get_materialized_partitions(bank_prompts.key) == names
    for asset in (tuning_tasks, bank_prompts, prompt_bank):
        assert why_stale(instance, TUNING_GRAPH, asset.key) is None


def test_one_partition_can_be_made_alone(instance: dg.DagsterInstance, settings: Settings) -> None:
    made = make(instance, settings, "bank_prompts", partition="second")
    [event] = made.asset_materializations_for_node("bank_prompts")
    assert event.partition == "second"
    # It has not changed, so its prompt is kept.
    assert (event.metadata["prompts"].value, event.metadata["tuned_now"].value) == (1, 0)


def test_the_bank_is_cut_to_its_capacity_and_checked(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    home = DataHome(root=settings.home)
    model = LanguageModel(path_or_id=settings.base_model).load()
    assert len(load_bank(home, model)) == 1
    [event] = [
        record.asset_materialization
        for record in instance.fetch_materializations(prompt_bank.key, limit=1).records
    ]
    assert event.metadata["evicted"].value + event.metadata["near_duplicates"].value == 2
    assert event.metadata["evicted"].value >= 1
    assert event.metadata["map"].value.startswith("![")
    [check] = make(instance, settings, "prompt_bank").get_asset_check_evaluations()
    assert check.check_name == "bank_quality"
    assert check.passed


def test_a_use_credits_its_entry_and_is_remembered(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    home = DataHome(root=settings.home)
    model = LanguageModel(path_or_id=settings.base_model).load()
    task = find_task(settings.tasks, "fourth")
    entry = load_bank(home, model).entries[0]

    def result(iterations: int) -> TuneResult:
        return TuneResult(
            "fourth", entry.prompt, True, iterations, 0.5, 1.0, 1.0, ((0, 0.5, 1.0),), "target"
        )

    start = Lookup(
        Candidate(entry.entry_id, "bank", entry.prompt),
        (),
        (),
        1,
        "",
        0.1,
        start_loss=1.0,
        predicted_iterations=5.0,
        predicted_cold_iterations=30.0,
    )

    def use(run_id: str, iterations: int, cold: TuneResult | None) -> float | None:
        tuned = result(iterations)
        return record_reuse(
            home, model, task, start, tuned, cold, run_id=run_id, tenant=None, check=lambda: None
        )

    assert use("a", 4, result(20)) == 16.0
    assert use("b", 6, None) == 24.0
    # Cut off after that, and resumed: noted once all the same.
    assert use("b", 6, None) == 24.0
    bank = load_bank(home, model)
    assert (bank[entry.entry_id].uses, bank[entry.entry_id].benefit) == (2, 20.0)
    assert [record.iterations for record in bank.history] == [4, 6]
    assert bank.hit_rate() == 1.0
    assert bank.iterations_saved() == 40.0
    assert (Path(bank_url(home, model)) / "history").is_dir()
