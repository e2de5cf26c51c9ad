import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maitre.errors import UserError
from maitre.serving.fleet.adapter_folder import (
    AdapterError,
    AdapterFolder,
    adapter_rank,
    check_adapter,
    same_model,
    without_byte_order_mark,
)
from maitre.serving.measure.blank_adapters import blank_adapters
from tests.vllm_double import write_adapter

CONFIG = """{"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}"""
LLAMA = frozenset({"llama-3.1-8b-instruct"})


def test_blank_adapters_have_their_ranks_and_are_made_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(CONFIG)
    made = blank_adapters(tmp_path / "adapters", model, [4, 8])
    assert [adapter_rank(folder) for folder in made.values()] == [4, 8]
    again = blank_adapters(tmp_path / "adapters", model, [4, 8])
    assert again == made
    check_adapter(made["rank8-001"], 8)
    with pytest.raises(AdapterError, match="rank 8 is above the server's 4"):
        check_adapter(made["rank8-001"], 4)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="adapter file missing"):
        adapter_rank(tmp_path / "none")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        blank_adapters(tmp_path / "adapters", tmp_path, [4])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "modules_to_save lm_head, embed_tokens"),
        ({"rank_pattern": {"layers.0.q_proj": 64}}, "rank 64 is above the server's 16"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"use_qalora": True}, "QALoRA"),
        ({"base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct"}, "its base model is Qwen"),
        ({"r": 0}, "r: expected a positive whole number; got 0"),
        ({"r": True}, "r: expected a positive whole number; got True"),
        ({"rank_pattern": {"x": "8"}}, "rank_pattern x: expected"),
        ({"rank_pattern": [8]}, "rank_pattern: expected an object"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    ],
)
def test_what_vllm_refuses_is_refused_by_name(
    tmp_path: Path, config: dict[str, object], reason: str
) -> None:
    folder = write_adapter(tmp_path / "mine", **config)
    with pytest.raises(AdapterError, match="mine") as raised:
        check_adapter(folder, 16, LLAMA)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": ["score"]},
        {"init_lora_weights": "gaussian"},
        {"rank_pattern": {"q_proj": 4}},
        {"use_rslora": True},
        {"base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"},
        {"base_model_name_or_path": "/c/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e"},
        {"base_model_name_or_path": "/home/me/base"},
        {"base_model_name_or_path": None},
    ],
)
def test_what_vllm_loads_is_accepted(tmp_path: Path, config: dict[str, object]) -> None:
    check_adapter(write_adapter(tmp_path / "mine", **config), 16, LLAMA)


def test_another_models_cache_is_another_model() -> None:
    path = "/cache/models--Qwen--Qwen2.5-7B-Instruct/snapshots/0e"
    assert not same_model(path, LLAMA)


def test_a_byte_order_mark_is_no_reason_to_refuse(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    assert without_byte_order_mark(folder, tmp_path / "copy") == folder
    file = folder / "adapter_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    check_adapter(folder, 16)
    for _ in range(2):
        copy = without_byte_order_mark(folder, tmp_path / "copy")
    assert json.loads((copy / "adapter_config.json").read_text())["r"] == 8, "as vLLM reads it"
    assert (copy / "adapter_model.safetensors").resolve().parent == folder


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(st.binary(max_size=40), st.text('[]{}":,NaI1e9\\udr ', max_size=40).map(str.encode))
)
def test_any_configuration_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "a"
    if not folder.is_dir():
        write_adapter(folder)
    (folder / "adapter_config.json").write_bytes(content)
    with pytest.raises(UserError):
        AdapterFolder.read(folder)
