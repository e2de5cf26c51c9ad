"""The code locations: that they load, what they define, and that loading is lazy."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml

from maitre.settings import Settings
from pipelines import definitions, serving, tuning
from pipelines.automation import ON_REQUEST
from pipelines.code_location import code_location
from pipelines.serving import serving_half
from pipelines.tuning import tuning_half
from pipelines.walkthrough.staleness import KEPT_TAG
from resources.wiring import resources

LOCATIONS = {"tuning": tuning, "serving": serving}
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", [*LOCATIONS, "definitions"])
def test_a_code_location_is_loadable(name: str) -> None:
    dg.Definitions.validate_loadable((LOCATIONS | {"definitions": definitions})[name].defs())


def test_dg_loads_what_the_two_code_locations_define() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert project["code_location_target_module"] == definitions.__name__
    both = definitions.defs()
    halves = [location.defs() for location in LOCATIONS.values()]
    assert {spec.key for spec in both.resolve_all_asset_specs()} == {
        spec.key for half in halves for spec in half.resolve_all_asset_specs()
    }
    assert {job.name for job in both.resolve_all_job_defs()} == {
        job.name for half in halves for job in half.resolve_all_job_defs()
    }
    assert len(both.sensors or []) == sum(len(half.sensors or []) for half in halves)
    assert len(both.schedules or []) == sum(len(half.schedules or []) for half in halves)


def test_every_resource_is_replaced_in_one_call() -> None:
    settings = Settings()
    doubles = {name: SimpleNamespace(name=name) for name in resources(settings)}
    for half in (tuning_half(settings), serving_half(settings)):
        defs = code_location(settings, half, resource_overrides=doubles)
        assert dict(defs.resources or {}) == doubles
        dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("module", [*(f"pipelines.{name}" for name in LOCATIONS)])
def test_importing_a_code_location_reads_no_settings(module: str) -> None:
    code = f"import os; os.environ['MAITRE_SETTINGS'] = 'nowhere.yaml'; import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)


def test_the_workspace_names_the_code_locations() -> None:
    found = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    modules = {entry["python_module"]["module_name"] for entry in found}
    assert modules == {location.__name__ for location in LOCATIONS.values()}


def test_jobs_select_what_they_are_for() -> None:
    jobs = {job.name: job for job in definitions.defs().resolve_all_job_defs()}

    def selected(name: str) -> set[str]:
        return {key.to_user_string() for key in jobs[name].asset_layer.selected_asset_keys}

    bank = {"task_files", "base_model", "tuning_tasks", "bank_prompts", "prompt_bank"}
    assert selected("refresh_bank") == bank
    assert selected("tune") == {"tuned_prompts"}
    model = {"twin_verdict", "server_profiles", "twin_traces", "maxpack_model"}
    placement = {"adapter_file", "adapter_catalogue", "placement_plan", "vllm_deployments"}
    assert selected("refresh_maxpack") == {"profile_files"} | model
    assert selected("place") == {"profile_files"} | placement
    assert selected("serving") == {"profile_files"} | model | placement


def test_the_graph_is_the_one_in_the_readme() -> None:
    graph = {
        spec.key.to_user_string(): sorted(d.asset_key.to_user_string() for d in spec.deps)
        for location in LOCATIONS.values()
        for spec in location.defs().resolve_all_asset_specs()
    }
    assert graph == {
        "task_files": [],
        "base_model": [],
        "tuning_tasks": ["task_files"],
        "bank_prompts": ["base_model", "tuning_tasks"],
        "prompt_bank": ["bank_prompts", "base_model"],
        "tuned_prompts": ["base_model", "prompt_bank", "task_files"],
        "adapter_file": [],
        "profile_files": [],
        "vllm_measurements": [],
        "observed_traffic": [],
        "server_profiles": ["profile_files", "twin_verdict", "vllm_measurements"],
        "twin_verdict": ["profile_files", "vllm_measurements"],
        "trace_batches": ["server_profiles"],
        "twin_traces": ["server_profiles", "trace_batches"],
        "maxpack_model": ["twin_traces", "twin_verdict"],
        "adapter_catalogue": ["adapter_file", "profile_files"],
        "placement_plan": [
            "adapter_catalogue",
            "maxpack_model",
            "observed_traffic",
            "twin_verdict",
        ],
        "vllm_deployments": ["placement_plan"],
        "running_servers": ["vllm_deployments"],
    }


@pytest.mark.parametrize("name", LOCATIONS)
def test_every_asset_says_what_it_is_and_whose(name: str) -> None:
    for spec in LOCATIONS[name].defs().resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.code_version, f"{spec.key}: staleness compares code versions"
        assert spec.group_name in ("inputs", "tuning", "serving")


def test_schedules_are_off_until_somebody_turns_them_on() -> None:
    schedules = [s for location in LOCATIONS.values() for s in location.defs().schedules or []]
    assert {s.name for s in schedules} == {
        "nightly_bank_refresh",
        "weekly_maxpack_refresh",
        "daily_placement",
    }
    assert all(s.default_status is dg.DefaultScheduleStatus.STOPPED for s in schedules)


def test_an_input_that_is_kept_when_changed_is_an_input() -> None:
    for location in LOCATIONS.values():
        for spec in location.defs().resolve_all_asset_specs():
            if kept := spec.tags.get(KEPT_TAG):
                assert kept in {d.asset_key.to_user_string() for d in spec.deps}


def test_what_follows_from_the_inputs_of_serving_has_a_condition() -> None:
    for spec in definitions.defs().resolve_all_asset_specs():
        follows = spec.group_name == "serving" and spec.key.to_user_string() not in ON_REQUEST
        assert (spec.automation_condition is not None) == follows, spec.key
    sensor = definitions.defs().resolve_sensor_def("serving_follows_its_inputs")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_the_scheduler_is_on_and_its_job_exists() -> None:
    sensor = tuning.defs().resolve_sensor_def("tuning_scheduler")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert [target.job_name for target in sensor.targets] == ["tune"]
    assert tuning.defs().resolve_job_def("tune").name == "tune"
