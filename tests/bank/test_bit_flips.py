"""One wrong bit in any file of a bank is a bank error, or changes nothing."""

import contextlib
from pathlib import Path

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankError
from maitre.bank.history import append_history
from maitre.bank.ita import StartRecord

from .conftest import MakeEntry

FLIPS = 400


def shown(bank: PromptBank) -> list[object]:
    entries = [(entry.facts(), entry.prompt.tobytes()) for entry in bank]
    return [*entries, *bank.history]


def test_no_bit_flip_gives_other_facts(tmp_path: Path, make: MakeEntry) -> None:
    entries = (make("a", tenant="acme", eval_accuracy=0.5), make("b", text="be kind"))
    PromptBank(entries).save(tmp_path)
    append_history(tmp_path, [StartRecord("t", "s", 1.5, None, 1.1, 4.0, tenant="acme")])
    before = shown(PromptBank.load(tmp_path))
    assert len(before) == 3
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    generator = np.random.default_rng(0)
    for file in files:
        content = file.read_bytes()
        for place in generator.integers(len(content) * 8, size=FLIPS // len(files)).tolist():
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            with contextlib.suppress(BankError):
                assert shown(PromptBank.load(tmp_path)) == before, (file, place)
        file.write_bytes(content)
    assert shown(PromptBank.load(tmp_path)) == before
