import pytest
import yaml

from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload, simulate
from maitre.twin.errors import TwinInputError
from maitre.twin.profile import Engine


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


FINGERPRINTS = {
    "cpu/smollm2-135m": "c68755126d30d4bf",
    "h100-64gb/llama-3.1-8b-instruct": "25a053edcdf6d325",
    "h100-64gb/qwen-2.5-7b-instruct": "41a4f4c18c1c95bb",
}
"""Models, traces and plans that users keep were made for these; they change with a new fit only."""


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_an_older_file_with_a_text_engine_is_the_same_profile(name, tmp_path):
    profile = ServerProfile.load(name)
    assert profile.fingerprint() == FINGERPRINTS[name]
    document = yaml.safe_load(profile.to_yaml())
    document |= {"gpu": profile.engine.gpu, "engine": profile.engine.text}
    path = tmp_path / "older.yaml"
    path.write_text(yaml.safe_dump(document))
    older = ServerProfile.load(path)
    assert older.fingerprint() == profile.fingerprint()
    read = {"image": profile.engine.image, "model_id": profile.engine.model_id}
    assert older.engine.model_copy(update=read) == profile.engine


@pytest.mark.parametrize(
    ("text", "version", "image"),
    [
        ("vLLM 0.19.1, bf16", "0.19.1", "vllm/vllm-openai:v0.19.1"),
        ("vLLM 0.8.5", "0.8.5", "vllm/vllm-openai:v0.8.5"),
        ("vLLM", "", ""),
        ("a fork of mine, 2.0", "", ""),
    ],
)
def test_an_engine_in_words_keeps_its_words_and_gives_the_image_of_its_version(
    text, version, image
):
    engine = Engine.of_text("a GPU", text)
    assert engine.text == text
    assert (engine.vllm_version, engine.container_image) == (version, image)


def test_an_image_and_a_model_id_predict_nothing(profile):
    engine = profile.engine.model_copy(update={"image": "mine", "model_id": "mine/too"})
    assert profile.model_copy(update={"engine": engine}).fingerprint() == profile.fingerprint()
    newer = profile.engine.model_copy(update={"vllm_version": "9.9"})
    assert profile.model_copy(update={"engine": newer}).fingerprint() != profile.fingerprint()


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


@pytest.mark.parametrize(
    ("replaced", "by", "message"),
    [
        ("base_ms: ", "base_ms: .nan #", r"step\.base_ms: .*finite.*; got nan"),
        ("base_tokens: ", "base_tokens: .inf #", r"memory\.base_tokens: .*finite.*; got inf"),
        ("base_ms: ", "base_ms: fast #", r"step\.base_ms: .*; got 'fast'"),
        ("memory:", "- memory:", "not YAML"),
    ],
)
def test_a_profile_that_cannot_be_used_is_one_line(profile, tmp_path, replaced, by, message):
    path = tmp_path / "bad.yaml"
    path.write_text(profile.to_yaml().replace(replaced, by, 1))
    with pytest.raises(TwinInputError, match=message) as found:
        ServerProfile.load(path)
    assert "\n" not in str(found.value)
    path.write_text("just text")
    with pytest.raises(TwinInputError, match=r"expected lines of the form .*; got str"):
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


def test_a_slot_has_the_size_that_vllm_gives_it(profile):
    """vLLM is started with --max-lora-rank 32 for rank 24."""
    asked, had = ServerConfig(64, 64, 24), ServerConfig(64, 64, 32)
    assert profile.kv_cache_tokens(64, 24) == profile.kv_cache_tokens(64, 32)
    assert profile.step_cost(asked) == profile.step_cost(had)


def test_a_warning_names_the_means_that_were_used(profile, sharegpt):
    load = AdapterLoad("a", 8, 0.5, mean_input_tokens=30_000, mean_output_tokens=300)
    result = simulate(profile, ServerConfig(8, 8, 16), Workload([load], sharegpt, 20.0))
    [warning] = [text for text in result.warnings if "mean_total_tokens" in text]
    assert warning.startswith("mean_total_tokens 30300 (input 30000.0 + output 300.0) is outside")


def test_a_profile_for_another_model_is_refused(profile, sharegpt):
    workload = Workload([AdapterLoad("a", 8, 0.5)], sharegpt, 20.0, base_model="qwen-2.5-7b")
    with pytest.raises(ValueError, match="base_model"):
        simulate(profile, ServerConfig(8, 8, 16), workload)
