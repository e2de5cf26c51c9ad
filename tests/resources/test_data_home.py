from pathlib import Path

import pandas as pd
import pytest

from resources.data_home import DataHome


def test_frames_and_documents_come_back(tmp_path: Path) -> None:
    home = DataHome(root=str(tmp_path))
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    home.write_frame("deep/frame.parquet", frame)
    home.write_json("document.json", {"k": [1.5, None]})
    pd.testing.assert_frame_equal(home.read_frame("deep/frame.parquet"), frame)
    assert home.read_json("document.json") == {"k": [1.5, None]}


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = DataHome(root=str(tmp_path))
    home.write_bytes("kept", b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.mv", full)
    with pytest.raises(OSError, match="No space"):
        home.write_bytes("kept", b"new")
    assert home.read_bytes("kept") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_what_was_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan\.json.*materialise"):
        DataHome(root=str(tmp_path)).read_json("plan.json")


def test_an_object_store_serves_as_well() -> None:
    home = DataHome(root="memory://maitre")
    home.write_json("a/b.json", 1)
    assert home.read_json("a/b.json") == 1
