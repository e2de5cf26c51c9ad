"""The bank in files: segments of Parquet and safetensors, through fsspec.

A stored bank is a folder of segments. A segment is written once and never changed: the vectors
(`*.safetensors`) and the table's digest (`*.sha256`) first, then the table (`*.parquet`), whose
presence makes it count. The table holds the digest of the vectors. Writers only
ever add segments, so two at once lose nothing, and a writer that dies leaves nothing that counts.
Reading applies the segments in order of their number: later facts of an entry replace earlier
ones, and a segment may drop entries. A merge replaces many segments by one; only one writer merges
at a time (a lock file), so that no merge reads what another removes. Readers who meet a removal
read again.
"""

import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from safetensors import SafetensorError

from maitre.bank.entry import BankEntry, BankError
from maitre.files import write_stored

MERGE_SEGMENTS = 16
"""From this many segments on, a save merges them."""

_META = b"maitre.bank"
_FORMAT = 1
_READ_ATTEMPTS = 20
_READ_AGAIN_S = 0.05
_MERGE_LOCK = "merging.lock"
# Older than this, a lock was left by a writer that died in a merge.
_STALE_LOCK_S = 120.0
_COLUMNS: dict[str, pa.DataType] = {
    "entry_id": pa.string(),
    "task": pa.string(),
    "description": pa.string(),
    "base_model": pa.string(),
    "base_model_hash": pa.string(),
    "tokenizer_hash": pa.string(),
    "created_at": pa.string(),
    "group": pa.string(),
    "text": pa.string(),
    "tenant": pa.string(),
    "licence": pa.string(),
    "run_id": pa.string(),
    "ita": pa.float64(),
    "ita_cold": pa.float64(),
    "benefit": pa.float64(),
    "uses": pa.int64(),
    "eval_loss": pa.float64(),
    "eval_accuracy": pa.float64(),
    "position": pa.string(),
}


@dataclass(frozen=True)
class _Segment:
    name: str
    number: int
    entries: tuple[BankEntry, ...]
    dropped: tuple[str, ...]
    replaces: tuple[str, ...]


def load_entries(url: str) -> list[BankEntry] | None:
    """Return all entries of the stored bank in order of insertion; `None` without a bank.

    Raises `BankError` for a damaged file.
    """
    for attempt in range(1, _READ_ATTEMPTS + 1):
        try:
            segments = _read(url)
        except FileNotFoundError:  # merged away by another writer between listing and reading
            if attempt == _READ_ATTEMPTS:
                raise BankError(f"{url}: segments vanish while they are read") from None
            time.sleep(_READ_AGAIN_S)
            continue
        break
    return _entries_after(_segments_in_force(segments)) if segments else None


def save_entries(url: str, entries: Sequence[BankEntry], stored: Sequence[BankEntry]) -> None:
    """Add the entries that are new or changed against `stored` as one segment."""
    known = {entry.entry_id: entry for entry in stored}
    fresh = [e for e in entries if e.entry_id not in known or not _is_same(e, known[e.entry_id])]
    if fresh or not stored:
        _write(url, fresh, number=_next_number(url))
        _merge_when_many(url)


def drop_entries(url: str, entry_ids: Iterable[str]) -> None:
    """Drop entries from the stored bank (eviction); ignore ids that it does not hold."""
    _write(url, (), number=_next_number(url), dropped=tuple(entry_ids))
    _merge_when_many(url)


def _is_same(one: BankEntry, other: BankEntry) -> bool:
    return (
        one.facts() == other.facts()
        and np.array_equal(one.prompt, other.prompt)
        and len(one.features) == len(other.features)
        and all(
            name == name_2 and np.array_equal(vector, vector_2)
            for (name, vector), (name_2, vector_2) in zip(one.features, other.features, strict=True)
        )
    )


def _merge_when_many(url: str) -> None:
    """Merge when there are many segments, unless another writer merges already."""
    if len(_names(url)) < MERGE_SEGMENTS:
        return
    fs, root = fsspec.core.url_to_fs(url)
    lock = f"{root}/{_MERGE_LOCK}"
    if not _create_lock(fs, lock):
        return
    try:
        _merge(url)
    finally:
        fs.rm(lock)


def _merge(url: str) -> None:
    segments = _read(url)
    if len(_segments_in_force(segments)) < MERGE_SEGMENTS:
        return
    entries = _entries_after(_segments_in_force(segments))
    # Also those that an earlier merge has replaced but not removed.
    replaced = tuple(segment.name for segment in segments)
    # The number of the newest replaced segment: what others have added meanwhile comes after it.
    newest = max(segment.number for segment in segments)
    _write(url, entries, number=newest, replaces=replaced)
    fs, root = fsspec.core.url_to_fs(url)
    for name in replaced:
        for ending in (".parquet", ".safetensors", ".sha256"):
            if fs.exists(f"{root}/{name}{ending}"):
                fs.rm(f"{root}/{name}{ending}")


def _create_lock(fs: Any, lock: str) -> bool:
    """Create the lock file, as only one writer can; return whether this process created it."""
    try:
        with fs.open(lock, "xb") as file:
            file.write(str(time.time()).encode())
    except FileExistsError:
        try:
            taken_at = float(fs.cat_file(lock))
        except (FileNotFoundError, ValueError):
            return False
        if time.time() - taken_at > _STALE_LOCK_S:
            fs.rm(lock)
        return False
    return True


def _names(url: str) -> list[str]:
    """Return the names of all stored segments, replaced ones included."""
    fs, root = fsspec.core.url_to_fs(url)
    if not fs.exists(root):
        return []
    fs.invalidate_cache(root)
    return [
        path.rsplit("/", 1)[-1].removesuffix(".parquet")
        for path in fs.ls(root, detail=False)
        if path.endswith(".parquet")
    ]


def _read(url: str) -> list[_Segment]:
    """Return all segments, also those that other segments replace."""
    fs, root = fsspec.core.url_to_fs(url)
    return [_read_segment(fs, root, name) for name in _names(url)]


def _segments_in_force(segments: Sequence[_Segment]) -> list[_Segment]:
    """Return the segments that no other segment replaces, in the order in which they apply."""
    replaced = {name for segment in segments for name in segment.replaces}
    counting = [segment for segment in segments if segment.name not in replaced]
    return sorted(counting, key=lambda s: (s.number, not s.replaces, s.name))


def _entries_after(segments: Sequence[_Segment]) -> list[BankEntry]:
    entries: dict[str, BankEntry] = {}
    for segment in segments:
        for entry_id in segment.dropped:
            entries.pop(entry_id, None)
        entries.update({entry.entry_id: entry for entry in segment.entries})
    return list(entries.values())


def _read_segment(fs: Any, root: str, name: str) -> _Segment:
    where = f"{root}/{name}"
    try:
        stored = fs.cat_file(f"{where}.parquet")
        # A segment of an earlier version has no digest.
        if fs.exists(f"{where}.sha256") and fs.cat_file(f"{where}.sha256") != _digest(stored):
            raise BankError(f"{where}.parquet is damaged or truncated: its checksum is another")
        table = pq.read_table(io.BytesIO(stored))
        meta = json.loads((table.schema.metadata or {})[_META])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise BankError(f"{where}.parquet is damaged or no part of a prompt bank") from error
    if meta["format"] != _FORMAT:
        raise BankError(
            f"{where}.parquet has format {meta['format']}; this version reads {_FORMAT}"
        )
    raw = fs.cat_file(f"{where}.safetensors")
    if hashlib.sha256(raw).hexdigest() != meta["vectors_sha256"]:
        raise BankError(f"{where}.safetensors is damaged or truncated: its checksum is another")
    try:
        vectors = safetensors.numpy.load(raw)
    except SafetensorError as error:
        raise BankError(f"{where}.safetensors is damaged: {error}") from error
    features: dict[str, list[tuple[str, np.ndarray]]] = {}
    for key in sorted(vectors):
        kind, _, rest = key.partition("/")
        if kind == "feature":
            feature, _, owner = rest.partition("/")
            features.setdefault(owner, []).append((feature, vectors[key]))
    return _Segment(
        name=name,
        number=int(meta["number"]),
        entries=tuple(
            BankEntry(
                **(row | {"created_at": datetime.fromisoformat(row["created_at"])}),
                prompt=vectors[f"prompt/{row['entry_id']}"],
                features=tuple(features.get(row["entry_id"], ())),
            )
            for row in table.to_pylist()
        ),
        dropped=tuple(meta["dropped"]),
        replaces=tuple(meta["replaces"]),
    )


def _write(
    url: str,
    entries: Sequence[BankEntry],
    number: int,
    dropped: tuple[str, ...] = (),
    replaces: tuple[str, ...] = (),
) -> None:
    vectors = {f"prompt/{e.entry_id}": np.ascontiguousarray(e.prompt) for e in entries}
    for entry in entries:
        for name, vector in entry.features:
            vectors[f"feature/{name}/{entry.entry_id}"] = np.ascontiguousarray(vector)
    raw = safetensors.numpy.save(vectors)
    meta = {
        "format": _FORMAT,
        "number": number,
        "dropped": dropped,
        "replaces": replaces,
        "vectors_sha256": hashlib.sha256(raw).hexdigest(),
    }
    facts = [entry.facts() for entry in entries]
    table = pa.table(
        {column: pa.array([f[column] for f in facts], kind) for column, kind in _COLUMNS.items()}
    ).replace_schema_metadata({_META: json.dumps(meta).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(root, exist_ok=True)
    # The random part keeps apart two writers who take the same number.
    name = f"{number:08d}-{uuid.uuid4().hex[:12]}"
    write_stored(fs, f"{root}/{name}.safetensors", raw, durable=True)
    write_stored(fs, f"{root}/{name}.sha256", _digest(sink.getvalue()), durable=True)
    write_stored(fs, f"{root}/{name}.parquet", sink.getvalue(), durable=True)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _next_number(url: str) -> int:
    return max((int(name.split("-")[0]) for name in _names(url)), default=0) + 1
