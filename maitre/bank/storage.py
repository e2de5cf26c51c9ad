"""The prompt bank on disk or in an object store: Parquet and safetensors behind one pointer file.

A save writes new files under new names and then replaces `bank.json`, which names them and their
hashes; so a reader sees the old bank or the new one, and a disk that is full leaves the old one.
Writers take turns by a lock file.
"""

import hashlib
import io
import json
import posixpath
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from maitre.bank.bank import PromptBank
from maitre.bank.entries import BankEntry, BankError

POINTER = "bank.json"
LOCK = "bank.lock"
FORMAT = 1
# A lock older than this was left by a writer that died.
STALE_LOCK_S = 120.0

_ARRAYS = ("prompt", "features")
_COLUMNS = tuple(field.name for field in fields(BankEntry) if field.name not in _ARRAYS)


def exists(url: str) -> bool:
    """Whether a bank has been saved at `url`."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return bool(filesystem.exists(posixpath.join(path, POINTER)))


def load_bank(url: str) -> PromptBank:
    """Read the bank at `url`; `BankError` when there is none or a file is damaged."""
    filesystem, path = fsspec.core.url_to_fs(url)
    try:
        pointer = json.loads(filesystem.cat_file(posixpath.join(path, POINTER)))
    except FileNotFoundError:
        raise BankError(f"{url}: no prompt bank there") from None
    except json.JSONDecodeError as error:
        raise BankError(f"{url}/{POINTER}: damaged: {error}") from None
    if pointer.get("format") != FORMAT:
        raise BankError(f"{url}: a bank of format {pointer.get('format')}, expected {FORMAT}")
    contents = {
        name: _read_checked(filesystem, posixpath.join(path, name), sha256)
        for name, sha256 in pointer["files"].items()
    }
    table = pd.read_parquet(io.BytesIO(contents[pointer["entries"]]))
    try:
        arrays = load(contents[pointer["arrays"]])
    except SafetensorError as error:
        raise BankError(f"{url}/{pointer['arrays']}: damaged: {error}") from None
    entries = [_entry(row, arrays) for row in table.to_dict(orient="records")]
    return PromptBank(pointer["base_model_hash"], pointer["tokenizer_hash"], tuple(entries))


def update_bank(
    url: str, change: Callable[[PromptBank | None], PromptBank], *, timeout_s: float = 60.0
) -> PromptBank:
    """Load the bank (None when there is none), let `change` make another, save that.

    Of two writers one waits for the other, so that neither's entries are lost. Raises `BankError`
    when the lock is not to be had within `timeout_s`.
    """
    with _locked(url, timeout_s):
        bank = change(load_bank(url) if exists(url) else None)
        _save(url, bank)
    return bank


def save_bank(url: str, bank: PromptBank) -> None:
    """Save `bank` in place of whatever is at `url`."""
    update_bank(url, lambda _: bank)


def _save(url: str, bank: PromptBank) -> None:
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.makedirs(path, exist_ok=True)
    version = uuid.uuid4().hex[:12]
    entries, arrays = f"entries-{version}.parquet", f"prompts-{version}.safetensors"
    contents = {entries: _table(bank), arrays: save(_tensors(bank))}
    pointer = {
        "format": FORMAT,
        "base_model_hash": bank.base_model_hash,
        "tokenizer_hash": bank.tokenizer_hash,
        "entries": entries,
        "arrays": arrays,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    unfinished = f"{POINTER}.{version}"
    try:
        for name, data in contents.items():
            filesystem.pipe_file(posixpath.join(path, name), data)
        filesystem.pipe_file(
            posixpath.join(path, unfinished), json.dumps(pointer, indent=2).encode()
        )
        filesystem.mv(posixpath.join(path, unfinished), posixpath.join(path, POINTER))
    except BaseException:
        for name in (*contents, unfinished):
            if filesystem.exists(posixpath.join(path, name)):
                filesystem.rm(posixpath.join(path, name))
        raise
    for old in filesystem.ls(path, detail=False):
        name = posixpath.basename(old)
        if name.startswith(("entries-", "prompts-")) and name not in contents:
            filesystem.rm(old)


@contextmanager
def _locked(url: str, timeout_s: float) -> Iterator[None]:
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.makedirs(path, exist_ok=True)
    lock = posixpath.join(path, LOCK)
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            with filesystem.open(lock, "xb") as file:
                file.write(str(time.time()).encode())
            break
        except FileExistsError:
            _drop_stale(filesystem, lock)
        if time.monotonic() > give_up_at:
            raise BankError(f"{lock}: another writer has held the bank for {timeout_s:.0f} s")
        time.sleep(0.05)
    try:
        yield
    finally:
        if filesystem.exists(lock):
            filesystem.rm(lock)


def _drop_stale(filesystem: Any, lock: str) -> None:
    try:
        taken_at = float(filesystem.cat_file(lock) or "nan")
    except (FileNotFoundError, ValueError):
        return
    if time.time() - taken_at > STALE_LOCK_S:
        filesystem.rm(lock)


def _table(bank: PromptBank) -> bytes:
    rows = [{name: getattr(entry, name) for name in _COLUMNS} for entry in bank.entries]
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=list(_COLUMNS)).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _tensors(bank: PromptBank) -> dict[str, np.ndarray]:
    return {
        f"{entry.entry_id}/{name}": np.ascontiguousarray(getattr(entry, name))
        for entry in bank.entries
        for name in _ARRAYS
    }


def _entry(row: dict[str, Any], arrays: dict[str, np.ndarray]) -> BankEntry:
    values = {name: None if pd.isna(value) else value for name, value in row.items()}
    for name in ("ita", "ita_cold"):
        values[name] = None if values[name] is None else int(values[name])
    values["created_at"] = pd.Timestamp(values["created_at"]).to_pydatetime()
    made = {name: arrays[f"{row['entry_id']}/{name}"] for name in _ARRAYS}
    return BankEntry(**values, **made)


def _read_checked(filesystem: Any, path: str, sha256: str) -> bytes:
    try:
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        raise BankError(f"{path}: missing, though {POINTER} names it") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BankError(f"{path}: damaged (its hash is not the one in {POINTER})")
    return content
