from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry
from maitre.home_files import HomeFiles


def test_frames_and_documents_come_back(tmp_path: Path) -> None:
    files = HomeFiles(str(tmp_path))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    files.write_frame("deep/frame.parquet", frame)
    files.write_json("document.json", {"k": [1.5, None]})
    pd.testing.assert_frame_equal(files.read_frame("deep/frame.parquet"), frame)
    assert files.read_json("document.json") == {"k": [1.5, None]}


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = HomeFiles(str(tmp_path))
    files.write_bytes("kept", b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maitre.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes("kept", b"new")
    assert files.read_bytes("kept") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan\.json: no such file"):
        HomeFiles(str(tmp_path)).read_json("plan.json")


def test_an_object_store_serves_as_well() -> None:
    files = HomeFiles("memory://maitre")
    files.write_json("a/b.json", 1)
    assert files.read_json("a/b.json") == 1


def test_a_folder_that_is_written_again_keeps_only_the_new_files(tmp_path: Path) -> None:
    files = HomeFiles(str(tmp_path))
    files.write_folder("plan", {"a.yaml": "1", "b.yaml": "2"})
    files.write_folder("plan", {"b.yaml": "3"})
    assert files.list_folder("plan") == ["b.yaml"]
    assert files.read_bytes("plan/b.yaml") == b"3"


def test_a_bank_is_named_by_weights_and_tokenizer_and_an_earlier_one_is_still_found(
    tmp_path: Path,
) -> None:
    files = HomeFiles(str(tmp_path))
    weights, tokenizer, other = "m" * 64, "t" * 64, "o" * 64
    named = files.bank_url(weights, tokenizer)
    assert named != files.bank_url(weights, other)
    entry = BankEntry(
        entry_id="a",
        task="a",
        description="",
        prompt=np.zeros((2, 6), dtype=np.float32),
        base_model="m",
        base_model_hash=weights,
        tokenizer_hash=tokenizer,
        created_at=datetime(2030, 1, 1, tzinfo=UTC),
    )
    earlier = str(tmp_path / "bank" / weights[:12])
    PromptBank((entry,)).save(earlier)
    assert files.bank_url(weights, tokenizer) == earlier
    assert files.bank_url(weights, other) == f"{earlier}-{other[:12]}"
    PromptBank((entry,)).save(named)
    assert files.bank_url(weights, tokenizer) == named
