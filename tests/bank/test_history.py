"""What tunings have shown, beside the entries."""

from pathlib import Path

import pytest

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankError
from maitre.bank.history import append_history, load_history
from maitre.bank.ita import StartRecord
from tests.bank.conftest import MakeEntry


def record(task: str, iterations: float) -> StartRecord:
    return StartRecord(task, "s", 1.5, None, 1.1, iterations)


def test_records_come_back_with_the_bank_in_order(tmp_path: Path, make: MakeEntry) -> None:
    PromptBank((make("a"),)).save(tmp_path)
    assert PromptBank.load(tmp_path).history == ()
    append_history(tmp_path, [record("t", 3.0), record("t", 20.0)])
    append_history(tmp_path, [])
    append_history(tmp_path, [record("u", 5.0)])
    bank = PromptBank.load(tmp_path)
    assert [r.iterations for r in bank.history] == [3.0, 20.0, 5.0]
    assert bank.without(["a"]).visible_to(None).history == bank.history


def test_what_a_run_has_added_is_not_added_again(tmp_path: Path) -> None:
    assert append_history(tmp_path, [record("t", 3.0)], source="run1")
    assert not append_history(tmp_path, [record("t", 3.0)], source="run1")
    assert append_history(tmp_path, [record("t", 3.0)], source="run2")
    assert len(load_history(tmp_path)) == 2


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    append_history(tmp_path, [record("t", 3.0)])
    [file] = (tmp_path / "history").iterdir()
    file.write_text('{"task": "t"}\n')
    with pytest.raises(BankError, match=file.name):
        load_history(tmp_path)
