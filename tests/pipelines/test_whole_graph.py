"""The whole graph in one process, on inputs so small that it takes seconds."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import requests
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from mlflow.exceptions import MlflowException

from assets.serving.server_profiles import twin_fidelity
from assets.tuning.tuned_prompts import TASKS_NAME, tuned_prompts
from maitre.bank.bank import PromptBank
from maitre.placement.plan import PlacementPlan
from maitre.processes.outages import wait_out_outages
from maitre.requests import RequestState
from maitre.settings import Settings
from maitre.tracking.store import RegisteredVersion, TrackingStore
from maitre.twin import ServerProfile
from pipelines.jobs.serving import DEPLOYMENTS
from pipelines.walkthrough.staleness import why_stale
from resources.request_queue import RequestQueue
from resources.wiring import resources
from sensors.tuning_scheduler import tuning_scheduler
from tests.halves import (
    SERVING,
    SERVING_CHECKS,
    SERVING_GRAPH,
    TUNING,
    TUNING_CHECKS,
    TUNING_GRAPH,
)
from tests.measured import measured_folder
from tests.tiny_inputs import write_adapters, write_model, write_tasks

TASK_NAMES = ("first", "second", "third", "fourth")
CONFIG = {
    "bank_prompts": {"iterations": 2, "virtual_tokens": 2, "batch_size": 4},
    "tuned_prompts": {
        "max_iterations": 4,
        "virtual_tokens": 2,
        "batch_size": 4,
        "compare_with_cold": True,
    },
    "twin_traces": {"configurations": 120, "duration_s": 300.0},
    "maxpack_model": {"iterations": 30},
    # So few traces leave the model unsure of everything; the twin's check still holds the plan.
    "placement_plan": {"risk": 0.3},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("whole")
    profile = "h100-64gb/llama-3.1-8b-instruct"
    return Settings(
        home=str(folder / "home"),
        base_model=str(write_model(folder / "model")),
        tasks=str(write_tasks(folder / "tasks", TASK_NAMES)),
        held_back=("fourth",),
        adapters=str(
            write_adapters(folder / "adapters.csv", ServerProfile.load(profile).base_model)
        ),
        profile=profile,
        request_queue_url=f"sqlite:///{folder}/home/requests.db",
        mlflow_tracking_uri=f"sqlite:///{folder}/home/mlflow/mlflow.db",
    )


@pytest.fixture(scope="module")
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions(TASKS_NAME, ["fourth"])
        yield made


def run(
    instance: dg.DagsterInstance,
    settings: Settings,
    assets: list,
    checks: list,
    selection: list[str],
    partition_key: str | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*assets, *checks],
        selection=dg.AssetSelection.assets(*selection),
        instance=instance,
        resources=resources(settings),
        partition_key=partition_key,
        run_config={"ops": {n: {"config": CONFIG[n]} for n in selection if n in CONFIG}},
    )


@pytest.fixture(scope="module")
def tuned(instance: dg.DagsterInstance, settings: Settings) -> dg.ExecuteInProcessResult:
    bank = ["task_files", "base_model", "tuning_tasks", "bank_prompts", "prompt_bank"]
    assert run(instance, settings, TUNING, TUNING_CHECKS, bank).success
    # With an asset that it depends on, as one who materialises "with upstream" asks for it.
    return run(instance, settings, TUNING, TUNING_CHECKS, ["base_model", "tuned_prompts"], "fourth")


@pytest.fixture(scope="module")
def served(instance: dg.DagsterInstance, settings: Settings) -> dg.ExecuteInProcessResult:
    keys = DEPLOYMENTS.resolve(SERVING_GRAPH)
    names = sorted(key.to_user_string() for key in keys)
    return run(instance, settings, SERVING, SERVING_CHECKS, names)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict:
    [made] = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def test_a_held_back_task_is_tuned_and_registered(
    tuned: dg.ExecuteInProcessResult, settings: Settings
) -> None:
    assert tuned.success
    found = metadata(tuned, "tuned_prompts")
    assert found["iterations"] <= 4
    assert found["start"].startswith(("first-", "second-", "third-", "text:", "random", "mean of"))
    tracking = resources(settings)["mlflow"].store()
    [version] = tracking.client().search_model_versions("name='tuned-prompt-fourth'")
    assert version.run_id == found["mlflow_run_id"]
    tags = tracking.client().get_run(found["mlflow_run_id"]).data.tags
    assert tags["dagster/run_id"] == tuned.run_id
    assert tags["dagster/partition"] == "fourth"


def test_the_tuned_prompt_joins_the_bank(
    tuned: dg.ExecuteInProcessResult, settings: Settings
) -> None:
    [folder] = (Path(settings.home) / "bank").iterdir()
    bank = PromptBank.load(folder)
    found = metadata(tuned, "tuned_prompts")
    runs = {entry.task: entry.run_id for entry in bank}
    assert {"first", "second", "third"} <= set(runs)
    if not found["iterations"] and found["start"] in {entry.entry_id for entry in bank}:
        # The start was good enough as it was, and the bank has that prompt already.
        assert "fourth" not in runs
    else:
        assert runs["fourth"] == found["mlflow_run_id"]
    [record] = bank.history
    assert (record.task, record.start) == ("fourth", found["start"])


def test_the_registered_prompt_answers_as_the_tuner_evaluated(
    tuned: dg.ExecuteInProcessResult, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from maitre.tuning.tasks import Task

    monkeypatch.setenv("MAITRE_BASE_MODEL", settings.base_model)
    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    model = mlflow.pyfunc.load_model("models:/tuned-prompt-fourth/1")
    lines = Task.load(Path(settings.tasks) / "fourth").eval
    answers = model.predict(pd.DataFrame({"prompt": [line.prompt for line in lines]}))["completion"]
    right = sum(
        a.strip() == line.completion.strip() for a, line in zip(answers, lines, strict=True)
    )
    assert right / len(lines) == pytest.approx(metadata(tuned, "tuned_prompts")["eval_accuracy"])


def test_nothing_is_stale_after_it_was_made(
    tuned: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    for name in ("tuning_tasks", "bank_prompts", "prompt_bank"):
        assert why_stale(instance, TUNING_GRAPH, dg.AssetKey(name)) is None
    assert why_stale(instance, TUNING_GRAPH, tuned_prompts.key, "fourth") is None
    assert why_stale(instance, TUNING_GRAPH, tuned_prompts.key, "third") == "never made"


def test_a_changed_task_makes_what_follows_stale(
    tuned: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, settings: Settings
) -> None:
    with dg.DagsterInstance.ephemeral() as other:
        given = Path(settings.tasks).parent / "changed"
        write_tasks(given, TASK_NAMES[:2])
        changed = settings.model_copy(
            update={"tasks": str(given), "held_back": (), "home": str(given.parent / "home2")}
        )
        names = ["task_files", "tuning_tasks"]
        run(other, changed, TUNING, [], names)
        write_tasks(given, TASK_NAMES)
        run(other, changed, TUNING, [], ["task_files"])
        assert why_stale(other, TUNING_GRAPH, dg.AssetKey("tuning_tasks")) == "task_files changed"


def test_the_catalogue_is_placed_and_rendered(
    served: dg.ExecuteInProcessResult, settings: Settings
) -> None:
    assert served.success
    plan = PlacementPlan.from_json((Path(settings.home) / "placement_plan.json").read_text())
    assert set(plan.servers_of()) == {f"a{i}" for i in range(24)}
    assert plan.lower_bound_gpus <= plan.gpus
    folder = Path(settings.home) / "plan"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert len(listed) == plan.gpus
    assert all((folder / name).is_file() for name in listed)
    assert {e.check_name: e.passed for e in served.get_asset_check_evaluations()} | {
        "champion_predicts_well": True
    } == {
        "champion_predicts_well": True,
        "no_server_starves": True,
        "manifests_are_valid": True,
        "twin_fidelity": True,
    }


def test_a_measurement_that_the_twin_misses_makes_profile_model_and_plan_stale(
    served: dg.ExecuteInProcessResult,
    instance: dg.DagsterInstance,
    settings: Settings,
    tmp_path: Path,
) -> None:
    assert served.success
    follow = ["server_profiles", "maxpack_model", "placement_plan"]
    for name in (*follow, "vllm_deployments"):
        assert why_stale(instance, SERVING_GRAPH, dg.AssetKey(name)) is None
        assert dagster_status(instance, name) == "FRESH"
    kind = settings.profile.replace("/", "-")
    instance.add_dynamic_partitions("server_kinds", [kind])
    folder = measured_folder(tmp_path / "samples", settings.profile, slow=40.0)
    result = dg.materialize(
        [*SERVING, twin_fidelity],
        selection=dg.AssetSelection.assets("vllm_measurements", "twin_verdict")
        | dg.AssetSelection.checks(twin_fidelity),
        instance=instance,
        resources=resources(settings),
        partition_key=kind,
        run_config={"ops": {"vllm_measurements": {"config": {"samples": str(folder)}}}},
    )
    assert [e.passed for e in result.get_asset_check_evaluations()] == [False]
    assert {dagster_status(instance, name) for name in follow} == {"STALE"}
    reasons = {why_stale(instance, SERVING_GRAPH, dg.AssetKey(name)) for name in follow}
    assert reasons == {"twin_verdict changed"}


def dagster_status(instance: dg.DagsterInstance, name: str) -> str:
    """As Dagster's UI shows it."""
    resolver = CachingStaleStatusResolver(instance, SERVING_GRAPH, LoadingContextForTest(instance))
    return resolver.get_status(dg.AssetKey(name)).value


def test_the_first_model_is_champion(served: dg.ExecuteInProcessResult, settings: Settings) -> None:
    champion = resources(settings)["mlflow"].store().champion("maxpack")
    assert champion is not None
    assert metadata(served, "maxpack_model")["promoted"]


def test_the_sensor_asks_once_for_each_request_and_notes_its_end(
    tuned: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, settings: Settings
) -> None:
    queue = RequestQueue(url=settings.request_queue_url)
    now = datetime.now(UTC)
    request = queue.submit("third", deadline_at=now + timedelta(minutes=10), now=now)
    context = dg.build_sensor_context(
        instance=instance, resources={"request_queue": queue, "settings": settings}
    )
    [asked] = tuning_scheduler(context).run_requests
    assert asked.partition_key == "third"
    assert asked.run_key == request.run_key
    # Held for a while, then free again: a daemon that dies here loses nothing.
    assert queue.get(request.request_id).state is RequestState.STARTING
    assert tuning_scheduler(context).run_requests == []
    instance.add_dynamic_partitions(TASKS_NAME, ["third"])
    result = dg.materialize(
        TUNING,
        selection=[tuned_prompts],
        instance=instance,
        resources=resources(settings),
        partition_key="third",
        tags=asked.tags,
        run_config={"ops": {"tuned_prompts": {"config": CONFIG["tuned_prompts"]}}},
    )
    assert result.success
    assert tuning_scheduler(context).run_requests == []
    ended = queue.get(request.request_id)
    assert ended.state is RequestState.DONE
    assert ended.run_id == result.run_id


def test_a_prompt_that_is_tuned_while_mlflow_is_away_is_registered_later(
    instance: dg.DagsterInstance,
    settings: Settings,
    tuned: dg.ExecuteInProcessResult,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tries: list[str] = []
    register = TrackingStore.register

    def away_twice(self: TrackingStore, *args: Any, **kwargs: Any) -> RegisteredVersion:
        tries.append(kwargs["name"])
        if len(tries) <= 2:
            raise MlflowException("no answer") from requests.exceptions.ConnectionError("refused")
        return register(self, *args, **kwargs)

    monkeypatch.setattr(TrackingStore, "register", away_twice)
    monkeypatch.setattr(
        "assets.tuning.tuned_prompts.wait_out_outages",
        partial(wait_out_outages, sleep=lambda _: None),
    )
    instance.add_dynamic_partitions(TASKS_NAME, ["third"])
    again = run(instance, settings, TUNING, [], ["base_model", "tuned_prompts"], "third")
    assert again.success
    assert tries == ["tuned-prompt-third"] * 3
    assert "the prompt waits to be registered: no answer: next try in" in capfd.readouterr().err
    client = resources(settings)["mlflow"].store().client()
    run_id = metadata(again, "tuned_prompts")["mlflow_run_id"]
    [version] = client.search_model_versions(f"run_id='{run_id}'")
    assert version.name == "tuned-prompt-third"
    experiment_id = client.get_run(run_id).info.experiment_id
    [only] = client.search_runs([experiment_id], f"tags.`dagster/run_id` = '{again.run_id}'")
    assert (only.info.run_id, only.info.status) == (run_id, "FINISHED")
