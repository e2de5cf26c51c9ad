"""A fingerprint of a model's weights and of its tokenizer, read from the files that store them.

The fingerprint covers the tensors as stored (name, type, shape, bytes), not how the files lay
them out nor the precision they are later loaded in, so the same model always has the same one.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from maitre.errors import UserError

_CHUNK_BYTES = 1 << 22
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True, order=True)
class _StoredTensor:
    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over all tensors of a folder's `*.safetensors`, in name order.

    Raises `UserError` when there is no such file or one of them is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"no *.safetensors file in {folder}: only safetensors models are read")
    digest = hashlib.sha256()
    for tensor in sorted(tensor for file in files for tensor in _stored_tensors(file)):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.begin)
            left = tensor.end - tensor.begin
            while left:
                chunk = stream.read(min(_CHUNK_BYTES, left))
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def tokenizer_hash(folder: Path) -> str:
    """Return the SHA-256 over a tokenizer's vocabulary files, without its chat template.

    Raises `UserError` when there is none.
    """
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise UserError(f"no tokenizer in {folder}: expected one of {', '.join(_TOKENIZER_FILES)}")
    digest = hashlib.sha256()
    for file in present:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stored_tensors(file: Path) -> list[_StoredTensor]:
    """Return the tensors of one safetensors file from its header; check that the file is whole."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(header_bytes) if header_bytes < size else b"")
        start = 8 + header_bytes
        tensors = [
            _StoredTensor(
                name=name,
                file=file,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                begin=start + entry["data_offsets"][0],
                end=start + entry["data_offsets"][1],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file} is not a whole safetensors file: unreadable header") from error
    if any(tensor.end > size for tensor in tensors):
        raise UserError(f"{file} is truncated: {size} bytes are fewer than its header promises")
    return tensors
