import dagster as dg
import pytest

from pipelines import serving, tuning
from pipelines.walkthrough.staleness import KEPT_TAG

LOCATIONS = {"tuning": tuning, "serving": serving}


@pytest.mark.parametrize("name", LOCATIONS)
def test_a_code_location_is_loadable(name: str) -> None:
    dg.Definitions.validate_loadable(LOCATIONS[name].defs)


def test_the_graph_is_the_one_in_the_readme() -> None:
    graph = {
        spec.key.to_user_string(): sorted(d.asset_key.to_user_string() for d in spec.deps)
        for location in LOCATIONS.values()
        for spec in location.defs.resolve_all_asset_specs()
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
        "twin_traces": ["server_profiles"],
        "maxpack_model": ["twin_traces", "twin_verdict"],
        "adapter_catalogue": ["adapter_file", "profile_files"],
        "placement_plan": [
            "adapter_catalogue",
            "maxpack_model",
            "observed_traffic",
            "twin_verdict",
        ],
        "vllm_deployments": ["placement_plan"],
    }


@pytest.mark.parametrize("name", LOCATIONS)
def test_every_asset_says_what_it_is_and_whose(name: str) -> None:
    for spec in LOCATIONS[name].defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.code_version, f"{spec.key}: staleness compares code versions"
        assert spec.group_name in ("inputs", "tuning", "serving")


def test_schedules_are_off_until_somebody_turns_them_on() -> None:
    schedules = [s for location in LOCATIONS.values() for s in location.defs.schedules or []]
    assert {s.name for s in schedules} == {
        "nightly_bank_refresh",
        "weekly_maxpack_refresh",
        "daily_placement",
    }
    assert all(s.default_status is dg.DefaultScheduleStatus.STOPPED for s in schedules)


def test_an_input_that_is_kept_when_changed_is_an_input() -> None:
    for location in LOCATIONS.values():
        for spec in location.defs.resolve_all_asset_specs():
            if kept := spec.tags.get(KEPT_TAG):
                assert kept in {d.asset_key.to_user_string() for d in spec.deps}
