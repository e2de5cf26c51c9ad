"""What is stored comes back; writers do not lose each other's entries; failures leave no harm."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from maitre.bank import store
from maitre.bank.bank import PromptBank, mean_embeddings
from maitre.bank.entry import BankEntry, BankError

Make = Callable[..., BankEntry]


def ids(bank: PromptBank) -> list[str]:
    return sorted(entry.entry_id for entry in bank)


def test_every_fact_and_vector_comes_back(tmp_path: Path, make: Make) -> None:
    full = make("a", group="g", text="be kind", tenant="blue", licence="Apache-2.0", run_id="r1")
    full = replace(full, ita=12.0, ita_cold=40.0, benefit=3.5, uses=2, eval_loss=0.4)
    bank = PromptBank((full, make("b", seed=2))).with_features("mean", mean_embeddings)
    bank.save(tmp_path / "bank")
    again = PromptBank.load(tmp_path / "bank")
    assert [e.facts() for e in again] == [e.facts() for e in bank]
    np.testing.assert_array_equal(again.prompts(), bank.prompts())
    np.testing.assert_array_equal(again["a"].feature("mean"), bank["a"].feature("mean"))
    assert not [p for p in (tmp_path / "bank").iterdir() if p.name.startswith(".")]


def test_an_object_store_does_as_well(make: Make) -> None:
    url = "memory://bank-test"
    PromptBank((make("a"),)).save(url)
    PromptBank((make("b", seed=5),)).save(url)
    assert ids(PromptBank.load(url)) == ["a", "b"]
    fsspec.filesystem("memory").rm("/bank-test", recursive=True)


def test_a_missing_bank_is_an_error_or_empty(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="no prompt bank at"):
        PromptBank.load(tmp_path / "nowhere")
    assert len(PromptBank.load(tmp_path / "nowhere", missing_ok=True)) == 0


def test_saving_writes_only_what_changed(tmp_path: Path, make: Make) -> None:
    bank = PromptBank((make("a"), make("b", seed=2)))
    bank.save(tmp_path)
    before = len(list(tmp_path.iterdir()))
    bank.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == before
    PromptBank((make("a").with_use(5.0),)).save(tmp_path)
    assert PromptBank.load(tmp_path)["a"].uses == 1
    assert len(PromptBank.load(tmp_path)) == 2


def test_many_writers_at_once_lose_nothing(tmp_path: Path, make: Make) -> None:
    def write(writer: int) -> None:
        for number in range(6):
            made = make(f"w{writer}-{number}", seed=100 * writer + number)
            PromptBank((made,)).save(tmp_path)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(PromptBank.load(tmp_path)) == 24


def test_segments_are_merged_and_dropped_entries_stay_dropped(tmp_path: Path, make: Make) -> None:
    for number in range(store.MERGE_SEGMENTS + 3):
        PromptBank((make(f"e{number}", seed=number),)).save(tmp_path)
        if number == 4:
            store.drop_entries(str(tmp_path), ["e2"])
    assert len(list(tmp_path.glob("*.parquet"))) < store.MERGE_SEGMENTS
    kept = ids(PromptBank.load(tmp_path))
    assert len(kept) == store.MERGE_SEGMENTS + 2
    assert "e2" not in kept


@pytest.mark.slow
def test_a_merge_that_dies_before_it_cleans_up_changes_nothing(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    monkeypatch.setattr(LocalFileSystem, "rm", lambda *_, **__: None)
    for number in range(2 * store.MERGE_SEGMENTS + 4):
        PromptBank((make(f"e{number}", seed=number),)).save(tmp_path)
        if number == 2:
            store.drop_entries(str(tmp_path), ["e0"])
    kept = ids(PromptBank.load(tmp_path))
    assert len(kept) == 2 * store.MERGE_SEGMENTS + 3
    assert "e0" not in kept


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_a_truncated_file_is_named(tmp_path: Path, make: Make, ending: str) -> None:
    PromptBank((make("a"),)).save(tmp_path)
    [file] = tmp_path.glob(f"*.{ending}")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BankError, match=rf"{file.stem}\.{ending} is damaged"):
        PromptBank.load(tmp_path)


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_full_disk_leaves_the_old_bank(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    PromptBank((make("a"),)).save(tmp_path)
    calls = iter(range(10))
    real = os.fsync

    def full(descriptor: int) -> None:
        if next(calls) == fails_at:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        PromptBank((make("b", seed=2),)).save(tmp_path)
    assert ids(PromptBank.load(tmp_path)) == ["a"]
    assert not list(tmp_path.glob(".*"))
    PromptBank((make("b", seed=2),)).save(tmp_path)
    assert ids(PromptBank.load(tmp_path)) == ["a", "b"]


def test_a_bank_of_another_model_is_not_overwritten(tmp_path: Path, make: Make) -> None:
    PromptBank((make("a"),)).save(tmp_path)
    with pytest.raises(BankError, match="base_model_hash"):
        PromptBank((make("b", base_model_hash="x" * 64),)).save(tmp_path)
    assert ids(PromptBank.load(tmp_path)) == ["a"]
