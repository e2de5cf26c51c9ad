"""Write files and folders whole or not at all.

Each write goes to a temporary name beside its target, which is then renamed. A reader never sees
half a file, and a process that is killed leaves none under the target's name.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# A file system takes 255 bytes per name; the temporary name must fit where the target's does.
_NAME_PART = 40


@contextmanager
def replacing_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary name is hidden and ends in `.tmp`: who lists a folder by suffix passes over it.
    When the block fails, `path` keeps its content and the temporary file is removed. With
    `durable`, the content survives a crash of the machine once the block has ended.
    """
    path = Path(path)
    unfinished = path.with_name(_temporary_name(path))
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        os.replace(unfinished, path)
        if durable:
            _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file as a whole; create its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path, durable=durable) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Replace a text file as a whole, in UTF-8; create its folder."""
    write_bytes(path, text.encode(), durable=durable)


def create_text(path: str | Path, text: str, *, private: bool = False) -> bool:
    """Write a text file whole unless `path` exists; return whether this call made it.

    Of two processes that call at the same time one makes the file. A `private` file is readable by
    its owner only, from the first moment.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(_temporary_name(path))
    handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(unfinished, path)
    except FileExistsError:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def write_stored(
    filesystem: "AbstractFileSystem", path: str, content: bytes, *, durable: bool = False
) -> None:
    """Replace a file of an fsspec file system as a whole; create its folder.

    The put of an object store is whole by itself.
    """
    if "file" in _protocols(filesystem):
        write_bytes(path, content, durable=durable)
        return
    filesystem.makedirs(filesystem._parent(path), exist_ok=True)
    filesystem.pipe_file(path, content)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder; put it in place of `folder` when the block succeeds.

    The folder that was there stays until then, and comes back if the rename fails.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name[:_NAME_PART]}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "new"
        unfinished.mkdir()
        yield unfinished
        replace_folder(unfinished, folder)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`, on one file system, and remove the folder that was there.

    The folder that was there stays until `fresh` is in place, and comes back if that fails.
    """
    old = fresh.with_name(f"{fresh.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _temporary_name(path: Path) -> str:
    return f".{path.name[:_NAME_PART]}.{secrets.token_hex(6)}.tmp"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _protocols(filesystem: "AbstractFileSystem") -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
