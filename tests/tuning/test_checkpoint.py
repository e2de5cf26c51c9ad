"""A run that is killed or cancelled goes on as if nothing had happened."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors

from maitre.tuning.base_model import BaseModel
from maitre.tuning.checkpoint import load_checkpoint
from maitre.tuning.config import IterationReport, TuneConfig, TuningInputError
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune
from tests.bit_flips import check_bit_flips

CONFIG = TuneConfig(virtual_tokens=3, learning_rate=0.1, batch_size=3, max_iterations=12)


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("killed_at", range(1, 12))
def test_a_run_killed_at_any_step_ends_at_the_same_prompt_bit_for_bit(
    tiny: BaseModel, sizes: Task, tmp_path: Path, killed_at: int
) -> None:
    whole = tune(tiny, sizes, init=None, config=CONFIG, seed=4)

    def die(report: IterationReport) -> None:
        if report.iteration == killed_at:
            raise KilledError

    file = tmp_path / "run.safetensors"
    options = {"config": CONFIG, "seed": 4, "checkpoint": file, "checkpoint_every": 3}
    with pytest.raises(KilledError):
        tune(tiny, sizes, init=None, on_iteration=die, **options)
    heard: list[int] = []
    resumed = tune(
        tiny, sizes, init=None, on_iteration=lambda p: heard.append(p.iteration), **options
    )
    assert np.array_equal(resumed.prompt, whole.prompt)
    assert resumed.curve == whole.curve
    assert resumed.iterations == whole.iterations
    # All that was done since the last checkpoint before the kill is done again, nothing more.
    assert heard[0] == ((killed_at - 1) // 3 * 3 + 1 if killed_at > 3 else 0)


def test_a_cancelled_run_goes_on_where_it_was(
    tiny: BaseModel, colours: Task, tmp_path: Path
) -> None:
    whole = tune(tiny, colours, init=None, config=CONFIG, seed=4)
    file = tmp_path / "run.safetensors"
    asked = iter([False] * 5 + [True])
    part = tune(
        tiny,
        colours,
        init=None,
        config=CONFIG,
        seed=4,
        checkpoint=file,
        should_stop=lambda: next(asked),
    )
    assert (part.stopped_because, part.iterations) == ("cancelled", 5)
    resumed = tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)
    assert np.array_equal(resumed.prompt, whole.prompt)
    assert resumed.seconds >= part.seconds


def test_a_finished_run_is_not_run_again_but_may_be_prolonged(
    tiny: BaseModel, colours: Task, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    done = tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)
    heard: list[IterationReport] = []
    again = tune(
        tiny,
        colours,
        init=None,
        config=CONFIG,
        seed=4,
        checkpoint=file,
        on_iteration=heard.append,
    )
    assert not heard
    assert np.array_equal(again.prompt, done.prompt)
    assert again.stopped_because == "max_iterations"
    longer = replace(CONFIG, max_iterations=16)
    prolonged = tune(tiny, colours, init=None, config=longer, seed=4, checkpoint=file)
    whole = tune(tiny, colours, init=None, config=longer, seed=4)
    assert np.array_equal(prolonged.prompt, whole.prompt)


def test_a_checkpoint_of_another_run_is_refused(
    tiny: BaseModel, colours: Task, sizes: Task, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)
    with pytest.raises(TuningInputError, match=r"another run \(task differs\)"):
        tune(tiny, sizes, init=None, config=CONFIG, seed=4, checkpoint=file)
    with pytest.raises(TuningInputError, match="seed"):
        tune(tiny, colours, init=None, config=CONFIG, seed=5, checkpoint=file)
    slower = replace(CONFIG, learning_rate=0.01)
    with pytest.raises(TuningInputError, match="config"):
        tune(tiny, colours, init=None, config=slower, seed=4, checkpoint=file)


def test_a_damaged_checkpoint_is_named(tiny: BaseModel, colours: Task, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(TuningInputError, match=r"run\.safetensors.*damaged or truncated"):
        tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)


def test_a_full_disk_keeps_the_checkpoint_that_is_there(
    tiny: BaseModel, colours: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.safetensors"
    short = replace(CONFIG, max_iterations=4)
    tune(tiny, colours, init=None, config=short, seed=4, checkpoint=file)
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maitre.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        tune(tiny, colours, init=None, config=CONFIG, seed=4, checkpoint=file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_no_bit_flip_gives_another_state(tiny: BaseModel, colours: Task, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    tune(
        tiny, colours, init=None, config=replace(CONFIG, max_iterations=4), seed=4, checkpoint=file
    )
    identity = safetensors_metadata(file)["identity"]

    def read() -> object:
        state = load_checkpoint(file, tiny, identity)
        assert state is not None
        tensors = (state.values, state.adam.mean, state.adam.square, state.best)
        facts = (state.adam.steps, state.best_point, state.curve, state.iteration, state.seconds)
        return [tensor.numpy().tobytes() for tensor in tensors], facts, state.stopped_because

    assert check_bit_flips(tmp_path, read) > 250


def safetensors_metadata(file: Path) -> dict[str, str]:
    with safetensors.safe_open(file, framework="np") as stored:
        return dict(stored.metadata())
