"""Draw pictures with matplotlib for an asset's metadata; Dagster's UI shows them inline."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib is imported inside the functions: code locations load this module.


def inline(figure: "Figure", alt: str) -> dg.MetadataValue:
    """Return a figure as Markdown that holds the PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{encoded})")


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str, y: str
) -> "Figure":
    """Draw one line per name over one pair of axes; points are `(x, y)`."""
    figure, axes = _axes(title, x, y)
    for name, points in lines.items():
        axes.plot([p[0] for p in points], [p[1] for p in points], label=name)
    if lines:
        axes.legend()
    return figure


def against(
    measured: Sequence[float], predicted: Sequence[float], *, title: str, x: str, y: str
) -> "Figure":
    """Draw predictions against measurements, with the diagonal on which they would agree."""
    figure, axes = _axes(title, x, y)
    axes.scatter(measured, predicted, s=8, alpha=0.5)
    top = max([*measured, *predicted, 1e-9])
    axes.plot([0, top], [0, top], color="black", linewidth=0.8)
    return figure


def bars(values: Mapping[str, float], *, title: str, x: str) -> "Figure":
    """Draw horizontal bars, the first name on top."""
    figure, axes = _axes(title, x, "")
    axes.barh(list(values), list(values.values()))
    axes.invert_yaxis()
    return figure


def plane(points: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> "Figure":
    """Draw points in two dimensions, one colour per group."""
    figure, axes = _axes(title, "", "")
    for name, group in points.items():
        axes.scatter([p[0] for p in group], [p[1] for p in group], s=24, label=name)
    if points:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _axes(title: str, x: str, y: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes
