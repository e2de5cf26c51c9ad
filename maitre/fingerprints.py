"""Hashes of contents, as Dagster records them for data versions."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from maitre.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

VERSION_LENGTH = 16
"""Hexadecimal digits of a data version."""


def of_text(text: str) -> str:
    """Return the SHA-256 of a text, in full."""
    return hashlib.sha256(text.encode()).hexdigest()


def of_bytes(content: bytes) -> str:
    """Return a data version of bytes."""
    return hashlib.sha256(content).hexdigest()[:VERSION_LENGTH]


def of_frame(frame: "pd.DataFrame") -> str:
    """Return a data version of a frame's rows, independent of their order."""
    import pandas as pd

    return str(pd.util.hash_pandas_object(frame).sum())


def of_files(paths: Iterable[Path]) -> str:
    """Return a data version of files: their names, those of their folders, and their contents.

    Raises:
        UserError: one of them does not exist.
    """
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; see maitre.yaml")
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:VERSION_LENGTH]
