"""A small part of the benchmark of damaged files, over every reader."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.malformed.readers import Reader, file_with, readers
from benchmarks.malformed.run import DEFECT, DROPPED, HANG, REFUSED, judged, verdict_on

CASES = 20


def test_no_reader_ends_in_a_traceback_hangs_or_drops_rows(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wrong = [
        (reader.name, verdict, detail)
        for reader in readers(scratch)
        for verdict, detail in judged(reader, tmp_path / "case", CASES, seed=3)
        if verdict in (DEFECT, HANG, DROPPED)
    ]
    assert wrong == []


@pytest.mark.slow
def test_every_reader_refuses_some_damage_or_ignores_the_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for reader in readers(scratch):
        found = Counter(verdict for verdict, _ in judged(reader, tmp_path / "case", CASES, seed=4))
        # An odd file among the workers' registrations is left out.
        assert found[REFUSED] or reader.name == "worker registration", reader.name


def broken(path: Path) -> int:
    raise KeyError("x")


def silent(path: Path) -> int:
    return path.read_text().count("\n") - 2


def endless(path: Path) -> int:
    signal.pause()
    return 0


@pytest.mark.parametrize(
    ("read", "verdict"), [(broken, DEFECT), (silent, DROPPED), (endless, HANG)]
)
def test_a_broken_reader_is_found(
    read: object, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.malformed.run.HANG_S", 0.05)
    make = file_with("t.csv", "a,b\n1,2\n3,4\n")
    assert callable(read)
    assert verdict_on(Reader("broken", make, read), make(tmp_path))[0] == verdict
