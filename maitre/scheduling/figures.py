"""Pictures of runs: violations against cost, and GPUs held and used over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maitre.files import replacing_file


def draw_violations_against_cost(
    points: Mapping[str, Sequence[tuple[float, float]]], path: Path
) -> None:
    """Draw one mark per run into a PNG; `points` maps policies to (cost, violation rate) pairs."""
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for name, pairs in points.items():
        axes.plot(
            [cost for cost, _ in pairs],
            [100 * rate for _, rate in pairs],
            marker="o",
            linestyle="none",
            markersize=4,
            alpha=0.6,
            label=name,
        )
    axes.set_xlabel("cost (of the whole run)")
    axes.set_ylabel("jobs violated (%)")
    axes.set_ylim(bottom=-2)
    axes.legend()
    with replacing_file(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))


def draw_timeline(
    timelines: Mapping[str, tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]],
    gpus: int,
    path: Path,
) -> None:
    """Draw held and used GPUs into a PNG; `timelines` maps policies to the steps of a `Replay`."""
    figure = Figure(figsize=(7, 1.6 * len(timelines) + 0.6), dpi=100, layout="constrained")
    grid = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)
    for axes, (name, (held, used)) in zip(grid[:, 0], timelines.items(), strict=True):
        for steps, label, alpha in ((held, "held", 0.35), (used, "used", 0.8)):
            axes.fill_between(
                [time_ms / 60_000 for time_ms, _ in steps],
                [count for _, count in steps],
                step="post",
                alpha=alpha,
                label=label,
            )
        axes.set_ylim(0, gpus * 1.05)
        axes.set_ylabel(f"{name}\nGPUs", fontsize=8)
        axes.legend(loc="upper right", fontsize=7)
    grid[-1, 0].set_xlabel("minutes")
    with replacing_file(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))
