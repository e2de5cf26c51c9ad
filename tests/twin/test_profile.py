import pytest

from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload, simulate
from maitre.twin.errors import TwinInputError


@pytest.mark.parametrize("name", ServerProfile.names())
def test_a_shipped_profile_survives_its_file(name, tmp_path):
    profile = ServerProfile.load(name)
    assert profile.name == name
    path = tmp_path / "profile.yaml"
    path.write_text(profile.to_yaml())
    again = ServerProfile.load(path)
    assert again == profile
    assert again.fingerprint() == profile.fingerprint()
    assert profile.provenance
    assert profile.fit


def test_the_fingerprint_follows_the_constants(profile):
    step = profile.step.model_copy(update={"base_ms": profile.step.base_ms + 1})
    assert profile.model_copy(update={"step": step}).fingerprint() != profile.fingerprint()
    noted = profile.model_copy(update={"fit": {"remark": "read again"}})
    assert noted.fingerprint() == profile.fingerprint()


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(TwinInputError, match=r"neither a file nor one of .*llama"):
        ServerProfile.load("a100/none")


def test_a_profile_with_a_bad_constant_names_it(profile, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(profile.to_yaml().replace("base_ms:", "base_seconds:"))
    with pytest.raises(TwinInputError, match="base_ms"):
        ServerProfile.load(path)


def test_a_configuration_outside_the_valid_range_is_warned_about(profile):
    workload = Workload([AdapterLoad("a", 8, 0.5)], Lengths.fixed(10, 10), 20.0)
    result = simulate(profile, ServerConfig(2, 2, 8), workload)
    assert any("max_loras" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_loras": 0}, "max_loras"),
        ({"max_loras": 2.5}, "max_loras"),
        ({"max_cpu_loras": 2}, "max_cpu_loras"),
        ({"max_lora_rank": -8}, "max_lora_rank"),
        ({"kv_cache_tokens": -1}, "kv_cache_tokens"),
        ({"max_num_batched_tokens": 128}, "max_num_batched_tokens"),
        ({"metrics_scrape_s": -1.0}, "metrics_scrape_s"),
    ],
)
def test_a_bad_server_limit_is_named(change, field):
    good = {"max_loras": 8, "max_cpu_loras": 16, "max_lora_rank": 16}
    with pytest.raises(ValueError, match=f"^{field}"):
        ServerConfig(**{**good, **change})


def test_a_rank_above_the_servers_is_named(profile, sharegpt):
    workload = Workload([AdapterLoad("big", 64, 0.5)], sharegpt, 20.0)
    with pytest.raises(ValueError, match=r"adapters\['big'\]\.rank: 64 .* max_lora_rank 16"):
        simulate(profile, ServerConfig(8, 8, 16), workload)


def test_a_profile_for_another_model_is_refused(profile, sharegpt):
    workload = Workload([AdapterLoad("a", 8, 0.5)], sharegpt, 20.0, base_model="qwen-2.5-7b")
    with pytest.raises(ValueError, match="base_model"):
        simulate(profile, ServerConfig(8, 8, 16), workload)
