"""Tuning learns, stops where it should, and tasks in one batch leave each other alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import IterationReport, TuneConfig, TuningInputError
from maitre.tuning.evaluate import evaluate
from maitre.tuning.soft_prompt import random_init, text_init
from maitre.tuning.task_run import batch_indices
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune, tune_many

CONFIG = TuneConfig(
    virtual_tokens=3, learning_rate=0.1, batch_size=4, max_iterations=20, eval_every=2
)


@pytest.mark.parametrize("position", ["suffix", "prefix"])
def test_tuning_lowers_the_loss_and_reports_what_it_reached(
    tiny: BaseModel, colours: Task, position: str
) -> None:
    config = replace(CONFIG, position=position)
    heard: list[IterationReport] = []
    result = tune(tiny, colours, init=None, config=config, seed=1, on_iteration=heard.append)
    train_losses = [p.train_loss for p in heard if p.train_loss is not None]
    assert train_losses[-1] < 0.6 * train_losses[0]
    assert [iteration for iteration, _, _ in result.curve] == list(range(0, 21, 2))
    assert result.stopped_because == "max_iterations"
    assert not result.reached
    assert result.prompt.shape == (3, 32)
    assert result.prompt.dtype == np.float32
    assert [p.iteration for p in heard] == list(range(21))
    again = evaluate(tiny, colours, result.prompt, position)
    assert again.loss == pytest.approx(result.eval_loss, rel=1e-5)
    assert again.accuracy == pytest.approx(result.eval_accuracy)
    assert (again.n, again.majority_share) == (2, 0.5)


def test_it_stops_at_the_first_evaluation_that_meets_the_target(
    tiny: BaseModel, colours: Task
) -> None:
    free = tune(tiny, colours, init=None, config=CONFIG, seed=1)
    target = free.curve[4][1]
    first = next(iteration for iteration, loss, _ in free.curve if loss <= target)
    result = tune(tiny, colours, init=None, config=replace(CONFIG, target_loss=target), seed=1)
    assert result.reached
    assert result.iterations == first
    assert result.stopped_because == "target"
    assert result.eval_loss <= target


def test_a_start_that_meets_the_target_takes_no_iteration(tiny: BaseModel, colours: Task) -> None:
    tuned = tune(tiny, colours, init=None, config=CONFIG, seed=1)
    config = replace(CONFIG, target_loss=tuned.eval_loss * 1.001)
    again = tune(tiny, colours, init=tuned.prompt, config=config, seed=2)
    assert (again.reached, again.iterations) == (True, 0)


def test_the_first_step_does_not_wait_for_the_evaluation_of_the_start(
    tiny: BaseModel, colours: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maitre.tuning import tune as module

    done: list[str] = []
    for name in ("answer_losses", "summed_over"):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, name=name: done.append(name) or real(*a)
        )
    heard: list[int] = []
    config = replace(CONFIG, max_iterations=2)
    result = tune(
        tiny, colours, init=None, config=config, seed=1,
        on_iteration=lambda p: heard.append(p.iteration),
    )  # fmt: skip
    assert done == ["answer_losses", "summed_over", "answer_losses", "summed_over"]
    assert heard == [0, 1, 2]
    assert [iteration for iteration, _, _ in result.curve] == [0, 2]
    start = evaluate(tiny, colours, random_init(tiny, 3, 1))
    assert result.curve[0][1:] == pytest.approx((start.loss, start.accuracy))


def test_tasks_in_one_batch_are_tuned_as_if_alone(
    tiny: BaseModel, colours: Task, sizes: Task
) -> None:
    start = random_init(tiny, 3, 7)
    # Adam at a high rate amplifies the rounding of sums.
    config = replace(CONFIG, learning_rate=0.02)
    together = tune_many(tiny, [colours, sizes], inits=[None, start], config=config, seeds=[1, 2])
    alone = [
        tune(tiny, colours, init=None, config=config, seed=1),
        tune(tiny, sizes, init=start, config=config, seed=2),
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.task == other.task
        np.testing.assert_allclose(one.curve, other.curve, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_prompt_bit_for_bit(tiny: BaseModel, colours: Task) -> None:
    one, other = (tune(tiny, colours, init=None, config=CONFIG, seed=3) for _ in range(2))
    assert np.array_equal(one.prompt, other.prompt)
    assert one.curve == other.curve


def test_a_cancelled_run_keeps_its_best_prompt(tiny: BaseModel, colours: Task) -> None:
    asked = iter([False] * 6 + [True])
    result = tune(tiny, colours, init=None, config=CONFIG, seed=1, should_stop=lambda: next(asked))
    assert result.stopped_because == "cancelled"
    assert result.iterations == 6
    assert result.eval_loss == min(loss for _, loss, _ in result.curve)


def test_without_an_interval_only_the_end_is_evaluated(tiny: BaseModel, colours: Task) -> None:
    result = tune(tiny, colours, init=None, config=replace(CONFIG, eval_every=None), seed=1)
    assert [iteration for iteration, _, _ in result.curve] == [20]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_prompt(
    tiny: BaseModel, colours: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maitre.tuning import tune as module

    real, calls = module.answer_losses, iter(range(1000))

    def sometimes_nan(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        losses, exact = real(*arguments)
        return (losses * torch.nan if next(calls) == 5 else losses), exact

    monkeypatch.setattr(module, "answer_losses", sometimes_nan)
    result = tune(tiny, colours, init=None, config=CONFIG, seed=1)
    assert result.stopped_because == "diverged"
    assert result.iterations == 5
    assert np.isfinite(result.prompt).all()
    assert np.isfinite(result.eval_loss)


def test_every_epoch_visits_every_example_once() -> None:
    seen = [i for step in range(6) for i in batch_indices(0, step, batch_size=5, examples=10)]
    for epoch in range(3):
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert len(batch_indices(0, 0, batch_size=25, examples=10)) == 25


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"virtual_tokens": 0}, "virtual_tokens"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"eval_every": 0}, "eval_every"),
        ({"target_accuracy": 1.5}, "target_accuracy"),
        ({"target_loss": -1.0}, "target_loss"),
        ({"position": "middle"}, "position"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict, word: str) -> None:
    with pytest.raises(TuningInputError, match=word):
        TuneConfig(**change)


def test_a_start_of_another_shape_or_with_nan_is_refused(tiny: BaseModel, colours: Task) -> None:
    with pytest.raises(TuningInputError, match=r"colours.*shape \(2, 32\)"):
        tune(tiny, colours, init=random_init(tiny, 2, 0), config=CONFIG, seed=0)
    with pytest.raises(TuningInputError, match="not finite"):
        tune(tiny, colours, init=np.full((3, 32), np.nan), config=CONFIG, seed=0)
    with pytest.raises(TuningInputError, match="as many"):
        tune_many(tiny, [colours], inits=[], config=CONFIG, seeds=[1])


def test_text_starts_are_the_words_repeated(tiny: BaseModel) -> None:
    start = text_init(tiny, "red sky", 5)
    assert start.shape == (5, 32)
    np.testing.assert_array_equal(start[0], start[2])
    with pytest.raises(TuningInputError, match="token"):
        text_init(tiny, "  ", 5)
