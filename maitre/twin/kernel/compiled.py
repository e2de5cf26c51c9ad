"""A numba decorator whose disk cache notices a change in any file of the kernel.

numba stamps a cached function with the age of its own source file, so a caller that has another
file's function compiled into it would outlive a change there. Here the stamp is a hash of all
sources in this folder and of the function's own file; it is the same in every clone.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


@lru_cache(maxsize=64)
def _source_stamp(own_file: str) -> tuple[str, int]:
    digest = hashlib.sha256(numba.__version__.encode())
    own = Path(own_file)
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *([own] if own.is_file() else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest(), 0


def _without_lost_types(load_index: Callable[[], Any]) -> Callable[[], Any]:
    """An index that names a type which the sources no longer have counts as empty.

    numba unpickles the index before it looks at the stamp, so an index written by other sources
    would otherwise stop the program instead of being replaced.
    """

    def load() -> Any:
        try:
            return load_index()
        except (AttributeError, ImportError):
            return {}

    return load


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with a disk cache that is valid for these sources.

    Compiled functions allocate nothing: arrays are passed in, and without reference counting
    (`_nrt=False`) a call costs no more than its arguments.
    """
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None and hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _source_stamp(function.__code__.co_filename)
        cache_file._load_index = _without_lost_types(cache_file._load_index)
    return dispatcher
