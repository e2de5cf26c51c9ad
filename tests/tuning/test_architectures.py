"""Losses of every kind of decoder are transformers' own, or the model is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T  # noqa: N812 as its own docs shorten it
from peft import PeftModel

from maitre.errors import UserError
from maitre.tuning import self_check
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig, Position, TuningInputError
from maitre.tuning.encoding import encode
from maitre.tuning.evaluate import evaluate
from maitre.tuning.export import export_prompt
from maitre.tuning.lora import export_lora, tune_lora
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task

from .conftest import WORDS, write_tiny_model

pytestmark = pytest.mark.slow
BASE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.5,
}
NO_HEAD_SIZE = {name: value for name, value in BASE.items() if name != "head_dim"}
GPT: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.5,
}
CONFIGS = {
    "llama": lambda: T.LlamaConfig(**BASE),
    "qwen3": lambda: T.Qwen3Config(**BASE),
    "mistral with a window": lambda: T.MistralConfig(**BASE, sliding_window=3),
    "phi3 with a window": lambda: T.Phi3Config(**NO_HEAD_SIZE, sliding_window=3),
    "gemma": lambda: T.GemmaConfig(**BASE),
    "gemma2": lambda: T.Gemma2Config(
        **BASE, sliding_window=3, query_pre_attn_scalar=8, attn_logit_softcapping=2.0
    ),
    "gemma3": lambda: T.Gemma3TextConfig(**BASE, sliding_window=3, query_pre_attn_scalar=8),
    "granite": lambda: T.GraniteConfig(
        **NO_HEAD_SIZE, logits_scaling=8.0, embedding_multiplier=12.0
    ),
    "cohere": lambda: T.CohereConfig(**NO_HEAD_SIZE, logit_scale=0.1),
    "mixtral": lambda: T.MixtralConfig(**NO_HEAD_SIZE, num_local_experts=4),
    "gpt2": lambda: T.GPT2Config(**GPT),
    "gptj": lambda: T.GPTJConfig(**GPT, rotary_dim=4),
    "gpt_neo": lambda: T.GPTNeoConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=3,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.5,
    ),
    "gpt_neox": lambda: T.GPTNeoXConfig(**NO_HEAD_SIZE),
    "opt with a narrow embedding": lambda: T.OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        init_std=0.5,
    ),
    "falcon": lambda: T.FalconConfig(**NO_HEAD_SIZE, alibi=False),
    "falcon with alibi": lambda: T.FalconConfig(**NO_HEAD_SIZE, alibi=True),
    "bloom": lambda: T.BloomConfig(
        vocab_size=len(WORDS), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5
    ),
    "mpt": lambda: T.MptConfig(vocab_size=len(WORDS), d_model=32, n_layers=2, n_heads=4),
    "mamba": lambda: T.MambaConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, state_size=4
    ),
}
FAST = {"llama", "qwen3"}
"""Those whose inputs must be cached: a change that loses their speed fails here."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check each model anew: no result of an earlier check is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_model(folder: Path, config: Any) -> Path:
    """Write a random model of a configuration, with the tiny model's tokenizer."""
    write_tiny_model(folder)
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def own_loss(own: Any, model: BaseModel, task: Task, prompt: np.ndarray, place: Position) -> float:
    """Return transformers' own mean loss, each row alone."""
    embed = own.get_input_embeddings()
    soft, losses = torch.from_numpy(prompt), []
    for row in encode(model, task, 3).eval:
        words, answer = embed(torch.tensor(row.input_ids)), torch.tensor(row.answer_ids)
        parts = [words, soft] if place == "suffix" else [soft, words]
        logits = own(inputs_embeds=torch.cat([*parts, embed(answer)])[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[-len(answer) - 1 : -1], answer))
    return float(torch.stack(losses).mean())


def own_model(folder: Path) -> Any:
    return T.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_losses_are_transformers_own(
    name: str, sizes: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", CONFIGS[name]())
    with torch.enable_grad():
        model = BaseModel.load(folder, device="cpu", dtype="float32")
    own, prompt = own_model(folder), random_init(model, 3, 0)
    for position in self_check.POSITIONS:
        found = evaluate(model, sizes, prompt, position).loss
        assert found == pytest.approx(own_loss(own, model, sizes, prompt, position), rel=1e-4)
    if name in FAST:
        assert model.passes.is_fast


@pytest.mark.parametrize("name", ["gemma", "gemma3", "granite", "gpt2"])
@torch.no_grad()
def test_peft_gives_a_prefix_prompt_the_same_logits(name: str, sizes: Task, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", CONFIGS[name]())
    with torch.enable_grad():
        model = BaseModel.load(folder, device="cpu", dtype="float32")
    prompt = random_init(model, 3, 0)
    exported = export_prompt(
        prompt,
        tmp_path / "prompt",
        position="prefix",
        base_model=str(folder),
        base_model_hash=model.hash,
    )
    theirs = PeftModel.from_pretrained(own_model(folder), exported).eval()
    losses = []
    for row in encode(model, sizes, 3).eval:
        ids = torch.tensor([row.input_ids + row.answer_ids])
        logits = theirs(input_ids=ids).logits[0, -len(row.answer_ids) - 1 : -1]
        answer = torch.tensor(row.answer_ids)
        losses.append(torch.nn.functional.cross_entropy(logits, answer))
    ours = evaluate(model, sizes, prompt, "prefix").loss
    assert ours == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_a_model_that_sees_later_tokens_is_refused_in_one_line(tmp_path: Path) -> None:
    config = T.BertConfig(**NO_HEAD_SIZE | {"num_key_value_heads": None}, is_decoder=False)
    folder = write_model(tmp_path / "model", config)
    with pytest.raises(UserError, match="a token sees later ones") as caught:
        BaseModel.load(folder, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_model_that_generates_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    T.T5Config(vocab_size=len(WORDS)).save_pretrained(folder)
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        BaseModel.load(folder, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_pass_that_differs_is_refused_and_the_part_named(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = BaseModel.logits
    monkeypatch.setattr(BaseModel, "logits", lambda *a, **k: 1.1 * right(*a, **k))
    with pytest.raises(UserError, match="attention or head changes the loss of a suffix prompt"):
        BaseModel.load(tiny_folder, device="cpu", dtype="float32")


def test_a_model_is_checked_once_per_weights(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = BaseModel.load(tiny_folder, device="cpu", dtype="float32")

    def not_again(model: BaseModel) -> self_check.Passes:
        raise AssertionError(f"{model.name} is checked again")

    monkeypatch.setattr(self_check, "_exact_passes", not_again)
    again = BaseModel.load(tiny_folder, device="cpu", dtype="float32")
    assert again.passes == first.passes
    assert again.model.config._attn_implementation == first.model.config._attn_implementation
    other = write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(AssertionError, match="checked again"):
        BaseModel.load(other, device="cpu", dtype="float32")


def test_rows_of_growing_rotations_do_not_depend_on_the_rows_beside_them(
    sizes: Task, tmp_path: Path
) -> None:
    rotary: dict[str, Any] = {"rope_type": "longrope", "factor": 4.0, "rope_theta": 10000.0}
    rotary |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rotary["original_max_position_embeddings"] = 6
    config = T.Phi3Config(
        **NO_HEAD_SIZE, rope_parameters=rotary, original_max_position_embeddings=6
    )
    folder = write_model(tmp_path / "model", config)
    model = BaseModel.load(folder, device="cpu", dtype="float32")
    own, prompt = own_model(folder), random_init(model, 3, 0)
    for position in self_check.POSITIONS:
        found = evaluate(model, sizes, prompt, position).loss
        with torch.no_grad():
            wanted = own_loss(own, model, sizes, prompt, position)
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("gpt2", ("c_attn",)),
        ("gpt_neox", ("query_key_value",)),
        ("phi3 with a window", ("qkv_proj",)),
        ("opt with a narrow embedding", ("q_proj", "v_proj")),
        ("falcon", ("query_key_value",)),
        ("bloom", ("query_key_value",)),
    ],
)
def test_an_adapter_of_another_architecture_loads_in_peft(
    name: str, layers: tuple[str, ...], sizes: Task, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", CONFIGS[name]())
    model = BaseModel.load(folder, device="cpu", dtype="float32")
    config = LoraConfig(rank=2, learning_rate=0.05, batch_size=2, max_iterations=3, dropout=0.2)
    result = tune_lora(model, sizes, config=config, seed=0)
    assert result.config.target_modules == layers
    exported = export_lora(result, tmp_path / "adapter", base_model=str(folder))
    theirs = PeftModel.from_pretrained(own_model(folder), exported).eval()
    losses = []
    for row in encode(model, sizes, 0).eval:
        ids = torch.tensor([row.input_ids + row.answer_ids])
        answer = torch.tensor(row.answer_ids)
        with torch.no_grad():
            logits = theirs(input_ids=ids).logits[0, -len(answer) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, answer))
    assert float(torch.stack(losses).mean()) == pytest.approx(result.eval_loss, rel=1e-4)


def test_dropout_is_drawn_by_the_seed_and_off_in_evaluation(tiny: BaseModel, sizes: Task) -> None:
    def tuned(dropout: float) -> Any:
        config = LoraConfig(rank=2, learning_rate=0.05, max_iterations=3, dropout=dropout)
        return tune_lora(tiny, sizes, config=config, seed=0)

    with_dropout, again, without = tuned(0.5), tuned(0.5), tuned(0.0)
    assert with_dropout.curve == again.curve
    assert with_dropout.curve[0] == without.curve[0]
    assert with_dropout.curve[-1] != without.curve[-1]


def test_layers_of_ones_own_choice_are_adapted_and_misspelt_ones_named(
    tiny: BaseModel, sizes: Task
) -> None:
    few = LoraConfig(rank=2, max_iterations=1, target_modules=("q_proj", "up_proj"))
    assert any("up_proj" in name for name in tune_lora(tiny, sizes, config=few, seed=0).weights)
    wrong = LoraConfig(target_modules=("q_proj", "nowhere_proj"))
    with pytest.raises(
        TuningInputError, match=r"no layers nowhere_proj .* its layers are .*q_proj"
    ):
        tune_lora(tiny, sizes, config=wrong, seed=0)
    # A refused adapter leaves nothing on the model.
    assert tune_lora(tiny, sizes, config=few, seed=0).iterations == 1


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"dropout": float("nan")}, "dropout must be"),
        ({"target_modules": ()}, "target_modules must be"),
        ({"target_modules": ("q_proj", "")}, "target_modules must be"),
    ],
)
def test_an_adapters_wrong_value_is_one_line(given: dict[str, Any], word: str) -> None:
    with pytest.raises(TuningInputError, match=word) as caught:
        LoraConfig(**given)
    assert "\n" not in str(caught.value)
