"""Prints what the capacity model and the placement achieve; writes it as JSON.

    python -m benchmarks placement [--profile NAME] [--points N] [--sizes 100 1000 10000]
                                   [--shared ../shared/data] [--work FOLDER] [--out FILE]

With `--work` traces, model and each part's figures are kept there as they come: a run that is
stopped goes on where it was, and `--parts` of it can be run one at a time.

Training and test configurations are designed under different seeds. The measured runs, if their
folder is given, are seen by neither the model's training nor its scoring on the twin.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.placement.figure import Figure
from benchmarks.placement.model import (
    TEST_SEED,
    fitted,
    measured_figures,
    model_figures,
    traces_of,
    training_traces,
)
from benchmarks.placement.plans import KINDS, placement_figures
from maitre.twin import ServerProfile


def main() -> None:
    """Run every part and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h100-64gb/llama-3.1-8b-instruct")
    parser.add_argument("--points", type=int, default=3_200)
    parser.add_argument(
        "--refining-rounds", type=int, default=0, help="Rounds of active learning, points / 4 each."
    )
    parser.add_argument("--duration", type=float, default=3_600.0)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--work", type=Path, help="Folder to go on in.")
    parser.add_argument("--parts", nargs="*", help="Only: traces, model, measured, SIZE-KIND.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    profile = ServerProfile.load(arguments.profile)
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    points, duration_s = arguments.points, arguments.duration
    training = training_traces(profile, points, arguments.refining_rounds, duration_s, work)
    test = traces_of(profile, max(100, points // 4), TEST_SEED, duration_s, work)
    if arguments.parts == ["traces"]:
        return
    model = fitted(profile, training, work)
    parts: dict[str, Callable[[], list[Figure]]] = {"model": lambda: model_figures(model, test)}
    if arguments.shared:
        parts["measured"] = lambda: measured_figures(profile, model, arguments.shared)
    for size in arguments.sizes:
        for kind in KINDS:
            parts[f"{size}-{kind}"] = partial(placement_figures, profile, model, size, kind)
    figures: list[Figure] = []
    for name, measure in parts.items():
        if arguments.parts and name not in arguments.parts:
            continue
        kept = work / f"{profile.fingerprint()}-{name}.json"
        if not kept.is_file():
            _write(kept, measure())
        found = json.loads(kept.read_text())
        figures += found
        for figure in found:
            print(f"{figure['figure']:64s} {figure['value']}", flush=True)
    if arguments.out:
        _write(arguments.out, figures)


def _write(path: Path, figures: list[Figure]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(figures, indent=2, default=str))
    os.replace(part, path)


if __name__ == "__main__":
    main()
