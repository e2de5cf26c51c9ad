import os
import stat
import threading
from pathlib import Path

import fsspec
import pytest

from maitre.files import (
    create_text,
    replacing_file,
    replacing_folder,
    write_bytes,
    write_stored,
    write_text,
)


def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    write_text(target, "old")

    def fail(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing_file(target) as unfinished:
        fail(unfinished)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("durable", [False, True])
def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "new folder" / "values"
    contents = [b"a" * 100_000, b"b" * 100_000]
    write_bytes(target, contents[0], durable=durable)
    seen = set()
    writer = threading.Thread(
        target=lambda: [write_bytes(target, contents[n % 2], durable=durable) for n in range(50)]
    )
    writer.start()
    while writer.is_alive():
        seen.add(target.read_bytes())
    assert seen <= set(contents)


def test_a_durable_file_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, steps = tmp_path / "checkpoint", []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda handle: (steps.append("sync"), sync(handle)))
    monkeypatch.setattr("os.replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    write_bytes(target, b"x", durable=True)
    assert steps == ["sync", "rename", "sync"]


def test_the_longest_names_that_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'n' * 250}.json"
    write_text(target, "é")
    assert target.read_bytes() == "é".encode()


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "written", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert len(modes) == 1


def test_of_several_makers_of_a_file_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "token"
    assert create_text(target, "first", private=True)
    assert not create_text(target, "second")
    assert target.read_text() == "first"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as unfinished:
        (unfinished / "a").touch()

    def fail(unfinished: Path) -> None:
        (unfinished / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing_folder(folder) as unfinished:
        fail(unfinished)
    assert [path.name for path in folder.iterdir()] == ["a"]
    with replacing_folder(folder) as unfinished:
        (unfinished / "b").touch()
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("root", ["memory://files", "file://{}"])
def test_a_stored_file_goes_to_a_disk_or_to_an_object_store(root: str, tmp_path: Path) -> None:
    filesystem, path = fsspec.core.url_to_fs(root.format(tmp_path) + "/deep/file")
    write_stored(filesystem, path, b"1")
    write_stored(filesystem, path, b"2")
    assert filesystem.cat_file(path) == b"2"
    folder = path.rpartition("/")[0]
    assert len(filesystem.ls(folder, detail=False)) == 1


def test_no_other_module_renames_a_temporary_file() -> None:
    root = Path(__file__).parents[1]
    rooms = ("maitre", "assets", "resources", "sensors", "pipelines", "benchmarks", "examples")
    by_hand = {
        str(path.relative_to(root))
        for room in rooms
        for path in (root / room).rglob("*.py")
        if any(call in path.read_text() for call in ("os.replace(", "mkstemp(", "os.link("))
    }
    assert by_hand == {"maitre/files.py"}
