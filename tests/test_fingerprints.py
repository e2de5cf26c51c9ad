"""Hashes of contents: what changes them and what does not."""

from pathlib import Path

import pandas as pd
import pytest

from maitre import fingerprints
from maitre.errors import UserError


def test_files_count_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = fingerprints.of_files([tmp_path / "a"])
    assert len(first) == fingerprints.VERSION_LENGTH
    (tmp_path / "b").write_text("1")
    assert fingerprints.of_files([tmp_path / "b"]) != first
    (tmp_path / "a").write_text("2")
    assert fingerprints.of_files([tmp_path / "a"]) != first


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: no such file"):
        fingerprints.of_files([tmp_path / "gone"])


def test_a_frame_counts_by_its_values() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    assert fingerprints.of_frame(frame) == fingerprints.of_frame(frame.copy())
    assert fingerprints.of_frame(frame) != fingerprints.of_frame(frame.assign(a=[1, 3]))


def test_texts_and_bytes_of_the_same_content_agree() -> None:
    assert fingerprints.of_text("x").startswith(fingerprints.of_bytes(b"x"))
