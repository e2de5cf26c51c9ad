"""LoRA adapters learn, leave the base model alone, and load in peft as they are."""

from pathlib import Path

import pytest
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig, TuningInputError
from maitre.tuning.lora import export_lora, tune_lora
from maitre.tuning.tasks import Task

CONFIG = LoraConfig(rank=2, alpha=4.0, learning_rate=0.05, batch_size=4, max_iterations=12)


def test_an_adapter_learns_and_leaves_the_base_model_as_it_was(
    tiny: BaseModel, colours: Task
) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    losses: list[float] = []
    result = tune_lora(
        tiny,
        colours,
        config=CONFIG,
        seed=0,
        on_iteration=lambda p: losses.append(p.train_loss) if p.train_loss else None,
    )
    assert losses[-1] < 0.5 * losses[0]
    assert result.stopped_because == "max_iterations"
    assert [point[0] for point in result.curve] == list(range(0, 13, 2))
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


def test_the_same_seed_gives_the_same_adapter(tiny: BaseModel, colours: Task) -> None:
    one, other = (tune_lora(tiny, colours, config=CONFIG, seed=3) for _ in range(2))
    assert one.curve == other.curve
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_peft_loads_the_export_and_gives_the_same_loss(
    tiny: BaseModel, tiny_folder: Path, sizes: Task, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from maitre.tuning.encoding import encode

    result = tune_lora(tiny, sizes, config=CONFIG, seed=0)
    folder = export_lora(result, tmp_path / "adapter", base_model=str(tiny_folder))
    assert (folder / "adapter_model.safetensors").is_file()
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, folder)
    losses = []
    for row in encode(tiny, sizes, 0).eval:
        ids = torch.tensor([row.input_ids + row.answer_ids])
        cut = len(row.input_ids)
        logits = theirs(input_ids=ids).logits[0, cut - 1 : -1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, cut:])))
    assert sum(losses) / len(losses) == pytest.approx(result.eval_loss, rel=1e-4)
    with pytest.raises(TuningInputError, match="exists already"):
        export_lora(result, folder, base_model=str(tiny_folder))


def test_it_stops_at_the_target_or_when_asked(tiny: BaseModel, colours: Task) -> None:
    easy = LoraConfig(rank=2, target_loss=1e9)
    assert tune_lora(tiny, colours, config=easy, seed=0).iterations == 0
    asked = iter([False, False, True])
    result = tune_lora(tiny, colours, config=CONFIG, seed=0, should_stop=lambda: next(asked))
    assert (result.stopped_because, result.iterations) == ("cancelled", 2)


def test_layers_that_are_not_there_are_named(tiny: BaseModel, colours: Task) -> None:
    wrong = LoraConfig(target_modules=("nowhere_proj",))
    with pytest.raises(TuningInputError, match="nowhere_proj"):
        tune_lora(tiny, colours, config=wrong, seed=0)
    with pytest.raises(TuningInputError, match="rank"):
        LoraConfig(rank=0)
