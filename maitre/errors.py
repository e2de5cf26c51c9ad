"""The error that the user can mend."""

import csv
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What the readers of compressed files raise beside `OSError`. Arrow's errors that are neither a
# `ValueError` nor an `OSError` say that a file uses what Arrow cannot read.
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


class UserError(ValueError):
    """Something that the user can mend: an input, a setting, a service that does not answer.

    The command line prints the message on one line and exits with 2. Any other exception is a
    defect of Maitre: it keeps its traceback. A message says what is wrong, where, what was
    expected, what was found and what to do.
    """


@contextmanager
def named_file_errors(*paths: str | Path | None) -> Iterator[None]:
    """Raise `UserError` where the operating system refuses a file that the user named.

    It covers an `OSError` whose file is one of `paths`, or lies in one of them: a missing file, a
    folder in place of a file, no permission, a full disk. Any other `OSError` passes.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        failed = Path(os.fsdecode(error.filename)).absolute()
        named = [Path(path).absolute() for path in paths if path is not None]
        if not any(failed == path or path in failed.parents for path in named):
            raise
        raise UserError(f"{error.filename}: {error.strerror}") from error


@contextmanager
def reading(path: str | Path, kind: type[UserError] = UserError) -> Iterator[None]:
    """Raise an error of this `kind` naming `path` where the file cannot be read or parsed.

    It covers an `OSError` (no such file, a folder, no permission), text that is not UTF-8, and a
    parser's error: JSON, CSV, Parquet, a damaged archive. A `UserError` passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise kind(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not UTF-8 text") from error
    except RecursionError as error:
        raise kind(f"{path}: cannot be read: it is nested too deeply") from error
    except (ValueError, csv.Error, *_DAMAGED) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{path}: cannot be read: {reason[:200]}") from error
