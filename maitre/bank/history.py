"""What tunings have shown of starts, kept beside the bank's entries: the predictor learns from it.

A record is one JSON line; a file holds what was written at once, so two writers lose nothing.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from typing import Any

import fsspec

from maitre.bank.entry import BankError
from maitre.bank.ita import StartRecord
from maitre.files import write_stored
from maitre.fingerprints import of_text

FOLDER = "history"
MOST_FILES = 400
"""Only this many files, the newest, are read."""


def append_history(
    url: str | PathLike[str], records: Sequence[StartRecord], source: str | None = None
) -> bool:
    """Store records of tunings beside the bank at `url`; return whether any was added.

    `source` names where the records come from (letters and digits). A source adds its records only
    once.
    """
    if not records:
        return False
    fs, root = fsspec.core.url_to_fs(str(url))
    folder = f"{root}/{FOLDER}"
    fs.makedirs(folder, exist_ok=True)
    fs.invalidate_cache(folder)
    there = fs.ls(folder, detail=False)
    if source is not None and any(path.endswith(f"-{source}.jsonl") for path in there):
        return False
    path = f"{folder}/{len(there) + 1:08d}-{source or uuid.uuid4().hex[:12]}.jsonl"
    content = "".join(_line(asdict(record)) for record in records)
    write_stored(fs, path, content.encode(), durable=True)
    return True


def load_history(url: str | PathLike[str]) -> tuple[StartRecord, ...]:
    """Return the records beside the bank at `url`, oldest first; an empty tuple without a history.

    Raises `BankError` for a damaged file.
    """
    fs, root = fsspec.core.url_to_fs(str(url))
    folder = f"{root}/{FOLDER}"
    if not fs.exists(folder):
        return ()
    fs.invalidate_cache(folder)
    paths = sorted(path for path in fs.ls(folder, detail=False) if path.endswith(".jsonl"))
    found = []
    for path in paths[-MOST_FILES:]:
        try:
            found += [_record(line) for line in fs.cat_file(path).splitlines()]
        except (AttributeError, TypeError, ValueError) as error:
            raise BankError(f"{path} is damaged: {error}") from None
    return tuple(found)


def _line(facts: dict[str, Any]) -> str:
    return json.dumps(facts | {"sha256": of_text(json.dumps(facts))}) + "\n"


def _record(line: bytes) -> StartRecord:
    """Read a line; raise `ValueError` where its digest is another. Old lines have none."""
    facts = json.loads(line)
    digest = facts.pop("sha256", None)
    if digest is not None and digest != of_text(json.dumps(facts)):
        raise ValueError("its checksum is another")
    return StartRecord(**facts)
