"""The data home: where assets keep what they make, on a disk or in an object store (fsspec)."""

import io
import json
import posixpath
import uuid
from collections.abc import Mapping
from typing import Any

import dagster as dg
import fsspec
import pandas as pd


class DataHome(dg.ConfigurableResource):
    """Frames, JSON documents and folders under one root.

    A write is whole or not at all: it goes to a temporary name beside its target and is moved
    there at the end, so that a reader, or a run that is killed, never meets half a file.
    """

    root: str

    def url(self, name: str) -> str:
        """The full path or URL of `name` under the root."""
        return posixpath.join(self.root, name)

    def exists(self, name: str) -> bool:
        """Whether `name` has been written."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        return bool(filesystem.exists(path))

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write `content` and return its URL."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        unfinished = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            filesystem.pipe_file(unfinished, content)
            filesystem.mv(unfinished, path)
        finally:
            if filesystem.exists(unfinished):
                filesystem.rm(unfinished)
        return self.url(name)

    def read_bytes(self, name: str) -> bytes:
        """The content of `name`; `FileNotFoundError` with the URL when it has not been made."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        if not filesystem.exists(path):
            raise FileNotFoundError(
                f"{self.url(name)}: not there; materialise the asset that makes it first"
            )
        return filesystem.cat_file(path)

    def write_frame(self, name: str, frame: pd.DataFrame) -> str:
        """Write `frame` as Parquet."""
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return self.write_bytes(name, buffer.getvalue())

    def read_frame(self, name: str) -> pd.DataFrame:
        """Read a frame that `write_frame` wrote."""
        return pd.read_parquet(io.BytesIO(self.read_bytes(name)))

    def write_json(self, name: str, document: Any) -> str:
        """Write `document` as indented JSON with sorted keys."""
        return self.write_bytes(
            name, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        )

    def read_json(self, name: str) -> Any:
        """Read a document that `write_json` wrote."""
        return json.loads(self.read_bytes(name))

    def write_folder(self, name: str, files: Mapping[str, str]) -> str:
        """Write text files into a folder and remove what an earlier write left in it."""
        for file, text in files.items():
            self.write_bytes(f"{name}/{file}", text.encode())
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        for file in set(self.list_folder(name)) - set(files):
            filesystem.rm(posixpath.join(path, file))
        return self.url(name)

    def list_folder(self, name: str) -> list[str]:
        """The names of the files in a folder, sorted; empty when there is none."""
        filesystem, path = fsspec.core.url_to_fs(self.url(name))
        if not filesystem.exists(path):
            return []
        return sorted(posixpath.basename(file) for file in filesystem.ls(path, detail=False))
