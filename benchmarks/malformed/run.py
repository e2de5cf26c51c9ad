"""Damaged and odd files over every reader of users' data: tracebacks, hangs and dropped rows.

Each case damages one file of a good input in one to three ways and reads it. It must be read whole,
or be refused by an error that its user can mend.
"""

import argparse
import contextlib
import logging
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from benchmarks.malformed.mutations import mutated
from benchmarks.malformed.readers import Reader, readers, rows_of, seeded
from benchmarks.report import Figure, Reach, Report, progress
from maitre.errors import UserError

HANG_S = 5.0
NONE = Reach(0, 0)
READ, REFUSED, DEFECT, HANG, DROPPED = "read", "refused", "defect", "hang", "dropped"


class HangError(BaseException):
    """A reader takes longer than `HANG_S`; not an `Exception`, so that no reader catches it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--cases", type=int, default=20_000, help="damaged inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these readers")


def measure(options: argparse.Namespace) -> Report:
    """Return the verdicts over all readers."""
    logging.disable()  # a reader that leaves a file out logs it
    verdicts: dict[str, Counter[str]] = {}
    examples: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        chosen = [r for r in readers(scratch) if not options.only or r.name in options.only]
        each = -(-options.cases // len(chosen))
        for reader in chosen:
            verdicts[reader.name] = Counter()
            for verdict, detail in judged(reader, Path(folder, "case"), each, options.seed):
                verdicts[reader.name][verdict] += 1
                if verdict in (DEFECT, HANG, DROPPED):
                    examples.append({"reader": reader.name, "verdict": verdict, "detail": detail})
            progress(f"{reader.name}: {dict(verdicts[reader.name])}")
    kinds = Counter((one["reader"], one["verdict"], one["detail"]) for one in examples)
    for (name, verdict, detail), count in kinds.most_common(20):
        progress(f"{count} x {name}: {verdict}: {detail}")
    total = sum(verdicts.values(), Counter())
    return Report(
        [
            Figure("readers", len(verdicts)),
            Figure("cases", total.total(), "", Reach(at_least=20_000)),
            Figure("read whole", total[READ]),
            Figure("refused by an error for the user", total[REFUSED]),
            Figure("tracebacks", total[DEFECT], "", NONE),
            Figure("hangs", total[HANG], "", NONE),
            Figure("silent drops", total[DROPPED], "", NONE),
        ],
        {"readers": {name: dict(found) for name, found in verdicts.items()}, "examples": examples},
    )


def judged(reader: Reader, folder: Path, cases: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield the verdict on each damaged input, and what went wrong."""
    random = seeded(reader.name, seed)
    good = folder / "good"
    shutil.rmtree(folder, ignore_errors=True)
    good.mkdir(parents=True)
    target = reader.make(good)
    reader.read(target)
    files = sorted(path for path in good.rglob(reader.damaged) if path.is_file())
    for _ in range(cases):
        path = random.choice(files)
        content = path.read_bytes()
        path.write_bytes(mutated(content, random))
        try:
            yield verdict_on(reader, target)
        finally:
            path.write_bytes(content)


def verdict_on(reader: Reader, target: Path) -> tuple[str, str]:
    """Read one input; return the verdict and what went wrong."""
    try:
        with time_limit(HANG_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = reader.read(target)
    except (UserError, *reader.refusals) as error:
        # Several wrong rows of a catalogue are several lines.
        return (REFUSED, "") if str(error).strip() else (DEFECT, "an error without a message")
    except HangError:
        return HANG, f"more than {HANG_S:g} s"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            DEFECT,
            f"{type(error).__name__}: {str(error)[:150]!r} at {place.name}:{place.lineno}",
        )
    if rows is not None and target.suffix == ".csv":
        there = rows_of(target)
        if there is not None and there != rows:
            return DROPPED, f"{rows} of {there} rows"
    return READ, ""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `HangError` in the block after this time."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began_s = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - began_s > seconds:
        raise HangError
