"""Measurements taken over into the data home, and what they make stale if the twin misses them."""

from pathlib import Path

import dagster as dg
import pytest

from assets.serving.measured_profiles import chosen_profile, kind_of
from assets.serving.server_profiles import server_profiles, twin_fidelity
from assets.serving.twin_verdict import UNCONTRADICTED, twin_verdict
from assets.serving.vllm_measurements import SERVER_KINDS_NAME, vllm_measurements
from assets.shared.inputs import profile_files
from maitre.twin import ServerProfile, TwinInputError
from maitre.twin.profile import Engine
from pipelines.walkthrough.staleness import current_version, why_stale
from resources.data_home import DataHome
from resources.inputs import Inputs
from tests.halves import SERVING_GRAPH
from tests.measured import measured_folder

PROFILE = "h100-64gb/llama-3.1-8b-instruct"
KIND = kind_of(PROFILE)
SAMPLES = Path(__file__).resolve().parents[3] / "docs" / "vllm" / "smollm2-135m"


@pytest.fixture
def home(tmp_path: Path) -> DataHome:
    return DataHome(root=str(tmp_path / "home"))


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(tasks="", adapters="", profile=PROFILE, held_back=[])


ASSETS = [profile_files, twin_verdict, server_profiles, twin_fidelity, vllm_measurements]


def take_over(
    instance: dg.DagsterInstance, home: DataHome, inputs: Inputs, folder: Path, kind: str = KIND
):
    """As the job `take_measurements` does."""
    instance.add_dynamic_partitions(SERVER_KINDS_NAME, [kind])
    return dg.materialize(
        ASSETS,
        selection=dg.AssetSelection.assets(vllm_measurements, twin_verdict)
        | dg.AssetSelection.checks(twin_fidelity),
        partition_key=kind, instance=instance, resources={"home": home, "inputs": inputs},
        run_config={"ops": {"vllm_measurements": {"config": {"samples": str(folder)}}}},
    )  # fmt: skip


def make_profiles(instance: dg.DagsterInstance, home: DataHome, inputs: Inputs):
    return dg.materialize(
        ASSETS,
        selection=dg.AssetSelection.assets("profile_files", "twin_verdict", "server_profiles"),
        instance=instance, resources={"home": home, "inputs": inputs},
    )  # fmt: skip


def verdict(result: dg.ExecuteInProcessResult) -> bool:
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation.passed


def test_only_measurements_that_the_twin_misses_make_the_profiles_stale(
    tmp_path: Path, home: DataHome, inputs: Inputs
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert stale_reason(instance) == "never made"
        assert make_profiles(instance, home, inputs).success
        assert stale_reason(instance) is None, "nobody needs a vLLM"

        first = take_over(instance, home, inputs, measured_folder(tmp_path / "1", PROFILE))
        assert verdict(first)
        assert stale_reason(instance) == "vllm_measurements changed", "a new kind"
        assert made_of(instance) == UNCONTRADICTED
        assert make_profiles(instance, home, inputs).success
        assert stale_reason(instance) is None

        again = take_over(instance, home, inputs, measured_folder(tmp_path / "2", PROFILE, seed=1))
        assert verdict(again)
        assert made_of(instance) == UNCONTRADICTED, "it was foretold"

        slow = measured_folder(tmp_path / "3", PROFILE, slow=40.0)
        assert not verdict(take_over(instance, home, inputs, slow))
        assert made_of(instance) not in (None, UNCONTRADICTED)
        assert stale_reason(instance) == "twin_verdict changed"


def stale_reason(instance: dg.DagsterInstance) -> str | None:
    return why_stale(instance, SERVING_GRAPH, server_profiles.key)


def made_of(instance: dg.DagsterInstance) -> str | None:
    """The verdict's version, which profile, model and plan depend on."""
    return current_version(instance, SERVING_GRAPH, twin_verdict.key)


def test_a_profile_that_nobody_measured_is_not_held_against_anything(
    home: DataHome, inputs: Inputs
) -> None:
    check = twin_fidelity(home=home, inputs=inputs)
    assert isinstance(check, dg.AssetCheckResult)
    assert check.passed
    assert check.metadata["measured"].value is False


def test_a_fitted_profile_takes_the_place_of_the_shipped_one(home: DataHome) -> None:
    shipped = ServerProfile.load(PROFILE)
    assert chosen_profile(home, PROFILE) == shipped
    mine = shipped.model_copy(update={"engine": Engine(gpu="mine")})
    home.write_fitted_profile(KIND, mine)
    assert chosen_profile(home, PROFILE) == mine
    with pytest.raises(TwinInputError, match="neither a file nor one of"):
        chosen_profile(home, "no/such")


def test_a_profile_that_was_outrun_is_fitted_again_and_keeps_to_a_fit_that_is_better(
    home: DataHome,
) -> None:
    """On the samples of the server that the shipped CPU profile is of."""
    name = "cpu/smollm2-135m"
    kind, shipped = kind_of(name), ServerProfile.load(name)
    inputs = Inputs(tasks="", adapters="", profile=name, held_back=[])
    slower = {"base_ms": 4 * shipped.step.base_ms, "lora_ms": 4 * shipped.step.lora_ms}
    old = shipped.model_copy(update={"step": shipped.step.model_copy(update=slower)})
    home.write_fitted_profile(kind, old)
    with dg.DagsterInstance.ephemeral() as instance:
        taken = take_over(instance, home, inputs, SAMPLES, kind)
        assert not verdict(taken)
        made = make_profiles(instance, home, inputs)
        assert verdict(made)
        assert fitted_again(made) == [kind]
        found = chosen_profile(home, name)
        assert found.step.base_ms == pytest.approx(shipped.step.base_ms, rel=0.02)
        assert fitted_again(make_profiles(instance, home, inputs)) == []


def fitted_again(result: dg.ExecuteInProcessResult) -> list[str]:
    [made] = result.asset_materializations_for_node("server_profiles")
    return list(made.metadata["fitted_again"].value)


def test_a_folder_that_is_no_measurement_is_refused(
    tmp_path: Path, home: DataHome, inputs: Inputs
) -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(ValueError, match="1"):
        take_over(instance, home, inputs, tmp_path / "1")
    assert not home.has_measurement(KIND)


def test_a_measurement_of_another_kind_of_server_is_refused(
    tmp_path: Path, home: DataHome, inputs: Inputs
) -> None:
    """Its profile would be fitted and never be found."""
    folder = measured_folder(tmp_path / "1", PROFILE)
    expected = f"the partition 'cpu-other'; got one of '{PROFILE}'"
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(ValueError, match=expected):
        take_over(instance, home, inputs, folder, "cpu-other")
    assert not home.has_measurement("cpu-other")


def test_samples_that_lie_there_without_a_version_are_judged_all_the_same(
    tmp_path: Path, home: DataHome, inputs: Inputs
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        take_over(instance, home, inputs, measured_folder(tmp_path / "1", PROFILE, slow=40.0))
        version = made_of(instance)
        about = home.measured_server(KIND)
        assert about.pop("data_version") == version
        home.write_measurement(KIND, home.samples(KIND), about)
        made = dg.materialize(
            [twin_verdict], instance=instance, resources={"home": home, "inputs": inputs}
        )
        assert made.success
        assert made_of(instance) == version
