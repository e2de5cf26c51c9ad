"""Files under one root, on a disk or in an object store (fsspec)."""

import io
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import pandas as pd

from maitre.bank.bank import PromptBank
from maitre.files import write_stored

# Prompts fit only the weights and the tokenizer that they were tuned for.
_BANK_FOLDER = "bank"
_HASH_LENGTH = 12


@dataclass(frozen=True)
class HomeFiles:
    """Frames, JSON documents and folders under `root`, a path or an fsspec URL.

    Each write replaces a file as a whole (`maitre.files`).
    """

    root: str

    def url(self, name: str) -> str:
        """Return the full path or URL of `name`."""
        return posixpath.join(self.root, name)

    def bank_url(self, model_hash: str, tokenizer_hash: str) -> str:
        """Return where the prompt bank of a base model and its tokenizer is kept.

        A bank of an earlier version, which is named by the weights alone, stays where it is if it
        is of this tokenizer.
        """
        weights, tokenizer = model_hash[:_HASH_LENGTH], tokenizer_hash[:_HASH_LENGTH]
        named = f"{_BANK_FOLDER}/{weights}-{tokenizer}"
        earlier = f"{_BANK_FOLDER}/{weights}"
        if not self.exists(named) and self.exists(earlier):
            bank = PromptBank.load(self.url(earlier), missing_ok=True)
            if any(entry.tokenizer_hash == tokenizer_hash for entry in bank):
                return self.url(earlier)
        return self.url(named)

    def exists(self, name: str) -> bool:
        """Return whether `name` has been written."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        return bool(filesystem.exists(path))

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write `content` and return its URL."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        write_stored(filesystem, path, content)
        return self.url(name)

    def read_bytes(self, name: str) -> bytes:
        """Return the content of `name`.

        Raises:
            FileNotFoundError: nothing was written under that name.
        """
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        if not filesystem.exists(path):
            raise FileNotFoundError(f"{self.url(name)}: no such file")
        return filesystem.cat_file(path)

    def write_frame(self, name: str, frame: pd.DataFrame) -> str:
        """Write `frame` as Parquet and return its URL."""
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return self.write_bytes(name, buffer.getvalue())

    def read_frame(self, name: str) -> pd.DataFrame:
        """Read a frame that `write_frame` wrote."""
        return pd.read_parquet(io.BytesIO(self.read_bytes(name)))

    def write_json(self, name: str, document: Any) -> str:
        """Write `document` as indented JSON with sorted keys and return its URL."""
        return self.write_bytes(
            name, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        )

    def read_json(self, name: str) -> Any:
        """Read a document that `write_json` wrote."""
        return json.loads(self.read_bytes(name))

    def write_folder(self, name: str, files: Mapping[str, str]) -> str:
        """Write text files into a folder, remove its other files, and return its URL."""
        for file, text in files.items():
            self.write_bytes(f"{name}/{file}", text.encode())
        for file in set(self.list_folder(name)) - set(files):
            self.remove(f"{name}/{file}")
        return self.url(name)

    def list_folder(self, name: str) -> list[str]:
        """Return the sorted names of the files in a folder; empty if the folder does not exist."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        if not filesystem.exists(path):
            return []
        return sorted(posixpath.basename(file) for file in filesystem.ls(path, detail=False))

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        filesystem.rm(path)
