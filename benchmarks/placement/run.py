"""What the capacity model and the placement achieve, for one profile.

With `--work` traces, model and the figures of each part are kept in a folder as they come: a run
that is stopped goes on where it was, and `--parts` of it can be run one at a time.

Training and test configurations are designed under different seeds. The measured runs, if their
folder is given, are seen by neither the model's training nor its scoring on the twin.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.placement.model import (
    TEST_SEED,
    fitted,
    measured_figures,
    model_figures,
    traces_of,
    training_traces,
)
from benchmarks.placement.plans import KINDS, placement_figures
from benchmarks.report import Figure, Report, progress
from maitre.home_files import HomeFiles
from maitre.twin import ServerProfile


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="h100-64gb/llama-3.1-8b-instruct")
    parser.add_argument("--points", type=int, default=3_200)
    parser.add_argument(
        "--refining-rounds", type=int, default=0, help="rounds of active learning, points / 4 each"
    )
    parser.add_argument("--duration", type=float, default=3_600.0, help="simulated seconds")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--shared", type=Path, help="folder of the measured data, to compare with")
    parser.add_argument("--work", type=Path, help="folder to go on in")
    parser.add_argument("--parts", nargs="*", help="only: traces, model, measured, SIZE-KIND")


def measure(options: argparse.Namespace) -> Report:
    profile = ServerProfile.load(options.profile)
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    points, duration_s = options.points, options.duration
    training = training_traces(profile, points, options.refining_rounds, duration_s, work)
    test = traces_of(profile, max(100, points // 4), TEST_SEED, duration_s, work)
    details = {"profile": options.profile, "fingerprint": profile.fingerprint(), "points": points}
    if options.parts == ["traces"]:
        return Report([Figure("training traces", len(training))], details)
    model = fitted(profile, training, work)
    parts: dict[str, Callable[[], list[Figure]]] = {"model": lambda: model_figures(model, test)}
    if options.shared:
        parts["measured"] = lambda: measured_figures(profile, model, options.shared)
    for size in options.sizes:
        for kind in KINDS:
            parts[f"{size}-{kind}"] = partial(placement_figures, profile, model, size, kind)
    figures: list[Figure] = []
    for name, measure_part in parts.items():
        if options.parts and name not in options.parts:
            continue
        found = _part(work, f"{profile.fingerprint()}-{name}.json", measure_part)
        figures += found
        for figure in found:
            progress(f"{figure.name}: {figure.value} {figure.unit}")
    return Report(figures, details)


def _part(work: Path, name: str, measure_part: Callable[[], list[Figure]]) -> list[Figure]:
    """Return the figures of one part, from the folder where they were measured before."""
    files = HomeFiles(str(work))
    if not files.exists(name):
        rows = [[figure.name, figure.value, figure.unit] for figure in measure_part()]
        files.write_bytes(name, json.dumps(rows, indent=2, default=float).encode())
    return [Figure(*row) for row in files.read_json(name)]
