"""Compiles what calls the twin's step cost, with a disk cache that notices changes in either.

numba stamps a cached function with the age of its own file only; the step cost of the twin is
compiled into ours, so the stamp is a hash of both folders' sources and of the function's own file.
It is the same in every clone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from maitre.twin import kernel


@lru_cache(maxsize=64)
def _source_stamp(own_file: str) -> tuple[str, int]:
    digest = hashlib.sha256(numba.__version__.encode())
    if Path(own_file).is_file():
        digest.update(Path(own_file).read_bytes())
    for folder in (Path(str(kernel.__file__)).parent, Path(__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest(), 0


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with that cache."""
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None and hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _source_stamp(function.__code__.co_filename)
    return dispatcher
