"""One wrong bit in any file of a bank is a bank error, or changes nothing."""

from pathlib import Path

from maitre.bank.bank import PromptBank
from maitre.bank.history import append_history
from maitre.bank.ita import StartRecord
from tests.bit_flips import check_bit_flips

from .conftest import MakeEntry

FLIPS = 400


def shown(bank: PromptBank) -> list[object]:
    entries = [(entry.facts(), entry.prompt.tobytes()) for entry in bank]
    return [*entries, *bank.history]


def test_no_bit_flip_gives_other_facts(tmp_path: Path, make: MakeEntry) -> None:
    entries = (make("a", tenant="acme", eval_accuracy=0.5), make("b", text="be kind"))
    PromptBank(entries).save(tmp_path)
    append_history(tmp_path, [StartRecord("t", "s", 1.5, None, 1.1, 4.0, tenant="acme")])
    assert len(shown(PromptBank.load(tmp_path))) == 3
    assert check_bit_flips(tmp_path, lambda: shown(PromptBank.load(tmp_path)), FLIPS) > FLIPS // 2
