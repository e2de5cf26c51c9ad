"""Tuning the bank's tasks from a start in common."""

import numpy as np
import pytest

from maitre.tuning import common_start
from maitre.tuning.base_model import BaseModel
from maitre.tuning.common_start import tune_from_common_start
from maitre.tuning.config import TuneConfig
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune_many

CONFIG = TuneConfig(max_iterations=2, batch_size=2, virtual_tokens=2)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, list]]:
    """Of every round: its tasks, its iterations and its starts."""
    seen: list[tuple[int, int, list]] = []

    def noted(model, tasks, *, inits, config, **rest):
        seen.append((len(tasks), config.max_iterations, list(inits)))
        return tune_many(model, tasks, inits=inits, config=config, **rest)

    monkeypatch.setattr(common_start, "tune_many", noted)
    return seen


def test_a_second_round_begins_at_the_mean_of_the_first(
    tiny: BaseModel, colours: Task, rounds: list
) -> None:
    tasks = [colours] * 3
    results = tune_from_common_start(tiny, tasks, first_iterations=1, config=CONFIG, seed=0)
    (_, first_iterations, first), (_, iterations, second) = rounds
    assert (first_iterations, first) == (1, [None, None, None])
    assert iterations == 2
    assert all(np.array_equal(start, second[0]) for start in second)
    assert [result.iterations for result in results] == [2, 2, 2]


def test_prompts_that_are_known_spare_the_first_round(
    tiny: BaseModel, colours: Task, rounds: list
) -> None:
    hidden = tiny.embeddings.shape[1]
    known = [np.full((2, hidden), value, dtype=np.float32) for value in (0.0, 0.1, 0.5)]
    tune_from_common_start(tiny, [colours], known=known, first_iterations=9, config=CONFIG, seed=0)
    [(_, _, [start])] = rounds
    assert np.allclose(start, 0.2)


def test_too_few_tasks_for_a_mean_begin_cold(tiny: BaseModel, colours: Task, rounds: list) -> None:
    tune_from_common_start(tiny, [colours] * 2, first_iterations=9, config=CONFIG, seed=0)
    assert [starts for _, _, starts in rounds] == [[None, None]]


def test_the_first_round_is_of_some_of_many_tasks(
    tiny: BaseModel, colours: Task, rounds: list
) -> None:
    tune_from_common_start(tiny, [colours] * 30, first_iterations=1, config=CONFIG, seed=0)
    assert [count for count, _, _ in rounds] == [10, 30]
