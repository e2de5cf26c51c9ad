"""A LoRA run that is killed goes on as if nothing had happened."""

from pathlib import Path

import pytest
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import IterationReport, LoraConfig, TuningInputError
from maitre.tuning.lora import tune_lora
from maitre.tuning.tasks import Task

CONFIG = LoraConfig(rank=2, learning_rate=0.05, batch_size=3, max_iterations=7)


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_a_run_killed_at_any_step_ends_at_the_same_adapter_bit_for_bit(
    tiny: BaseModel, sizes: Task, tmp_path: Path, killed_at: int
) -> None:
    whole = tune_lora(tiny, sizes, config=CONFIG, seed=4)

    def die(report: IterationReport) -> None:
        if report.iteration == killed_at:
            raise KilledError

    file = tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        tune_lora(
            tiny,
            sizes,
            config=CONFIG,
            seed=4,
            checkpoint=file,
            checkpoint_every=2,
            on_iteration=die,
        )
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    resumed = tune_lora(tiny, sizes, config=CONFIG, seed=4, checkpoint=file, checkpoint_every=2)
    assert resumed.curve == whole.curve
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


def test_a_checkpoint_of_another_adapter_is_refused(
    tiny: BaseModel, sizes: Task, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    tune_lora(tiny, sizes, config=CONFIG, seed=4, checkpoint=file)
    other = LoraConfig(rank=4, learning_rate=0.05, batch_size=3, max_iterations=7)
    with pytest.raises(TuningInputError, match=r"another run \(config differs\)"):
        tune_lora(tiny, sizes, config=other, seed=4, checkpoint=file)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_weights(
    tiny: BaseModel, sizes: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maitre.tuning import lora as module

    real, calls = module.answer_row_losses, iter(range(1000))

    def sometimes_nan(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, exact = real(*arguments)
        return (losses * torch.nan if next(calls) == 5 else losses), exact

    monkeypatch.setattr(module, "answer_row_losses", sometimes_nan)
    result = tune_lora(tiny, sizes, config=CONFIG, seed=4)
    assert result.stopped_because == "diverged"
    assert all(torch.isfinite(weight).all() for weight in result.weights.values())
