"""Exported prompts: peft reads them and computes the same; they come back as they went."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import Position, TuningInputError
from maitre.tuning.encoding import encode
from maitre.tuning.export import export_prompt, import_prompt
from maitre.tuning.forward import answer_logits
from maitre.tuning.rows import InputCache
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task
from tests.bit_flips import check_bit_flips


def test_peft_loads_a_prefix_prompt_and_gives_the_same_logits(
    tiny: BaseModel, tiny_folder: Path, sizes: Task, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt = random_init(tiny, 3, 5) * 1.7
    folder = export_prompt(
        prompt,
        tmp_path / "prompt",
        position="prefix",
        base_model=str(tiny_folder),
        base_model_hash=tiny.hash,
    )
    example = encode(tiny, sizes, 3).train[0]
    batch = InputCache(tiny, [example], "prefix", limit_bytes=0).batch([0])
    ours = answer_logits(tiny, torch.from_numpy(prompt)[None], batch, "prefix")

    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, folder)
    ids = torch.tensor([example.input_ids + example.answer_ids])
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    first = 3 + len(example.input_ids) - 1
    torch.testing.assert_close(ours, logits[first : first + len(example.answer_ids)])


@pytest.mark.parametrize("position", ["prefix", "suffix"])
def test_prompts_come_back_as_they_went(tiny: BaseModel, tmp_path: Path, position: str) -> None:
    prompt = random_init(tiny, 3, 5)
    folder = tmp_path / "prompt"
    export_prompt(prompt, folder, position=position, base_model="tiny", base_model_hash=tiny.hash)
    again = import_prompt(folder)
    np.testing.assert_array_equal(again.prompt, prompt)
    assert (again.position, again.base_model_hash) == (position, tiny.hash)
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    with pytest.raises(TuningInputError, match="exists already"):
        export_prompt(
            prompt, folder, position=position, base_model="tiny", base_model_hash=tiny.hash
        )


def test_damaged_and_missing_files_are_named(tiny: BaseModel, tmp_path: Path) -> None:
    export_prompt(
        random_init(tiny, 3, 5),
        tmp_path / "prompt",
        position="suffix",
        base_model="tiny",
        base_model_hash=tiny.hash,
    )
    file = tmp_path / "prompt" / "soft_prompt.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(TuningInputError, match="damaged or truncated"):
        import_prompt(file)
    with pytest.raises(TuningInputError, match="holds neither"):
        import_prompt(tmp_path)


def test_an_export_that_fails_leaves_nothing(
    tiny: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maitre.tuning.export.safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space"):
        export_prompt(
            random_init(tiny, 3, 5),
            tmp_path / "prompt",
            position="suffix",
            base_model="tiny",
            base_model_hash=tiny.hash,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("position", ["suffix", "prefix"])
def test_no_bit_flip_gives_another_prompt(tmp_path: Path, position: Position) -> None:
    folder = export_prompt(
        np.arange(12, dtype=np.float32).reshape(2, 6),
        tmp_path / "prompt",
        position=position,
        base_model="m",
        base_model_hash="m" * 64,
        tenant="acme",
    )
    for other in folder.glob("*.json"):
        # peft's own file, which we do not read.
        other.unlink()

    def read() -> object:
        stored = import_prompt(folder)
        facts = (stored.position, stored.base_model, stored.base_model_hash, stored.tenant)
        return facts, stored.prompt.tobytes()

    assert check_bit_flips(folder, read) > 200
