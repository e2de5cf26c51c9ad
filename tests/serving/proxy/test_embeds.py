"""A tuned prompt is read the same whether it was exported or registered."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maitre.serving.proxy.embeds import read_tuned_prompt
from maitre.tuning.config import TuningInputError
from maitre.tuning.export import export_prompt

PROMPT = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_an_exported_and_a_registered_prompt_are_the_same(tmp_path: Path) -> None:
    export_prompt(
        PROMPT, tmp_path / "exported", position="suffix", base_model="tiny", base_model_hash="h"
    )
    registered = tmp_path / "registered"
    registered.mkdir()
    save_file({"prompt": PROMPT}, registered / "prompt.safetensors")
    card = {"position": "suffix", "base_model": "tiny", "base_model_hash": "h", "task": "t"}
    (registered / "prompt.json").write_text(json.dumps(card))
    one, other = read_tuned_prompt(tmp_path / "exported"), read_tuned_prompt(registered)
    assert np.array_equal(one.prompt, other.prompt)
    assert (one.position, one.base_model, one.base_model_hash) == (
        other.position, other.base_model, other.base_model_hash,
    )  # fmt: skip


def test_a_folder_without_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningInputError, match="holds neither"):
        read_tuned_prompt(tmp_path)
