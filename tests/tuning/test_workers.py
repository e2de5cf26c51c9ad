"""Two processes that share the rows come to what one process comes to."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import LoraConfig, TuneConfig, TuneResult, TuningInputError
from maitre.tuning.local_workers import with_workers
from maitre.tuning.lora import LoraResult, tune_lora
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune
from maitre.tuning.workers import Workers

PROMPT = TuneConfig(virtual_tokens=3, learning_rate=0.02, batch_size=3, max_iterations=6)
LORA = LoraConfig(rank=2, learning_rate=0.005, batch_size=3, max_iterations=4)


def both(
    model: BaseModel, workers: Workers, task: Task, checkpoint: Path
) -> tuple[TuneResult, LoraResult]:
    """One prompt and one adapter, in one process group: starting processes takes seconds."""
    prompt = tune(
        model,
        task,
        init=None,
        config=PROMPT,
        seed=1,
        checkpoint=checkpoint,
        checkpoint_every=2,
        workers=workers,
    )
    return prompt, tune_lora(model, task, config=LORA, seed=1, workers=workers)


def test_two_workers_come_to_what_one_comes_to(
    tiny: BaseModel, tiny_folder: Path, sizes: Task, tmp_path: Path
) -> None:
    shared = partial(both, task=sizes, checkpoint=tmp_path / "two.safetensors")
    prompt, adapter = with_workers(tiny, str(tiny_folder), 2, shared)
    alone, alone_adapter = both(tiny, Workers(), sizes, tmp_path / "one.safetensors")
    np.testing.assert_allclose(prompt.curve, alone.curve, rtol=1e-3)
    np.testing.assert_allclose(prompt.prompt, alone.prompt, atol=1e-4)
    np.testing.assert_allclose(adapter.curve, alone_adapter.curve, rtol=1e-3)
    # What two workers began, one can end.
    longer = TuneConfig(virtual_tokens=3, learning_rate=0.02, batch_size=3, max_iterations=8)
    ended = tune(
        tiny, sizes, init=None, config=longer, seed=1, checkpoint=tmp_path / "two.safetensors"
    )
    whole = tune(tiny, sizes, init=None, config=longer, seed=1)
    np.testing.assert_allclose(ended.curve, whole.curve, rtol=1e-3)


def test_shares_cover_all_rows_once() -> None:
    for rows in range(1, 12):
        for size in range(1, 5):
            shares = Workers(0, size).shares(list(range(rows)))
            assert [row for share in shares for row in share] == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_workers_than_rows_are_refused(tiny: BaseModel, sizes: Task) -> None:
    with pytest.raises(TuningInputError, match="4 workers cannot share batches of 3 rows"):
        tune(tiny, sizes, init=None, config=PROMPT, seed=1, workers=Workers(0, 4))
