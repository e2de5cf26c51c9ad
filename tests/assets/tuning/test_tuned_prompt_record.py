"""What a worker that has lost its run does not write into the bank."""

from pathlib import Path

import pytest

from assets.tuning.prompt_bank import bank_url, load_bank
from assets.tuning.record_reuse import record_reuse
from assets.tuning.tuned_prompt_record import add_to_bank
from maitre.bank.history import load_history
from maitre.bank.lookup import Candidate, Lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import TuneResult
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import find_task
from maitre.workers.leases import LeaseLost
from resources.data_home import DataHome
from tests.tiny_inputs import write_model, write_tasks


class Lost:
    """A check that lets so many writes pass."""

    def __init__(self, passes: int) -> None:
        self.passes = passes

    def __call__(self) -> None:
        self.passes -= 1
        if self.passes < 0:
            raise LeaseLost("another worker has been given this run")


def test_a_run_that_is_lost_adds_nothing_to_the_bank(tmp_path: Path) -> None:
    model = BaseModel.load(str(write_model(tmp_path / "model")))
    task = find_task(str(write_tasks(tmp_path / "tasks", ("first",))), "first")
    home = DataHome(root=str(tmp_path / "home"))
    prompt = random_init(model, 2, 0)
    tuned = TuneResult("first", prompt, True, 4, 0.5, 1.0, 1.0, ((0, 0.5, 1.0),), "target")
    with pytest.raises(LeaseLost):
        add_to_bank(home, model, task, tuned, None, "run", None, Lost(0))
    assert len(load_bank(home, model)) == 0
    add_to_bank(home, model, task, tuned, None, "run", None, Lost(1))
    [entry] = load_bank(home, model)
    choice = Candidate(entry.entry_id, "bank", entry.prompt)
    start = Lookup(choice, (), (), 1, "", 0.1, start_loss=1.0, predicted_cold_iterations=30.0)
    for passes, noted in ((0, 0), (1, 1)):
        with pytest.raises(LeaseLost):
            record_reuse(
                home,
                model,
                task,
                start,
                tuned,
                None,
                run_id=f"run{passes}",
                tenant=None,
                check=Lost(passes),
            )
        assert len(load_history(bank_url(home, model))) == noted
    assert [entry.uses for entry in load_bank(home, model)] == [0]
