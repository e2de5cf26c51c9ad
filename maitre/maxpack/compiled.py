"""Compiles what calls the twin's step cost, with a disk cache that notices changes in either.

numba stamps a cached function with the age of its own file only; the step cost of the twin is
compiled into ours, so the stamp is a hash of both folders' sources. It is the same in every clone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from maitre.twin import kernel


def _source_stamp() -> tuple[str, int]:
    digest = hashlib.sha256(numba.__version__.encode())
    for folder in (Path(str(kernel.__file__)).parent, Path(__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest(), 0


_STAMP = _source_stamp()


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with that cache."""
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None and hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _STAMP
    return dispatcher
