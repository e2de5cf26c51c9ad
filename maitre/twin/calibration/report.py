"""The fit report: a table of errors by regime, and plots of predicted against measured."""

from pathlib import Path
from typing import Any

from maitre.files import replacing_file, write_text
from maitre.twin.calibration.errors_by_regime import FIGURES, errors
from maitre.twin.profile import ServerProfile

LABELS = {
    "throughput": "throughput (tokens/s)",
    "itl": "inter-token latency, mean (ms)",
    "ttft": "time to first token, mean (ms)",
}


def write_report(profile: ServerProfile, comparison: Any, folder: Path) -> list[Path]:
    """Write `report.md`, `comparison.csv` and one plot per figure; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.md", folder / "comparison.csv"]
    write_text(written[0], _text(profile, comparison))
    write_text(written[1], comparison.to_csv(index=False))
    for figure in FIGURES:
        written.append(folder / f"{figure}.png")
        plot(comparison, figure, written[-1], profile.name)
    return written


def _text(profile: ServerProfile, comparison: Any) -> str:
    lines = [
        f"# Fit of {profile.name}",
        "",
        "Errors are 100 mean(|a - b| / (|a| + |b|)) in percent, signed bias in brackets.",
        "",
    ]
    for title, mask in (
        ("Runs in the fit", ~comparison["validation"]),
        ("Validation: whole scenarios kept out of the fit", comparison["validation"]),
    ):
        lines += [f"## {title}", "", *table(comparison[mask]), ""]
    lines += ["## Constants", "", "```yaml", profile.to_yaml().strip(), "```", ""]
    return "\n".join(lines)


def table(comparison: Any) -> list[str]:
    """Return a Markdown table of errors by regime."""
    lines = [
        "| runs | n | throughput | inter-token latency | time to first token | missed | false |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in errors(comparison).items():
        cells = [
            f"{row[f'{figure}_error_percent']:.2f} ({row[f'{figure}_bias_percent']:+.2f})"
            for figure in FIGURES
        ]
        lines.append(
            f"| {name} | {row['runs']} | {' | '.join(cells)} "
            f"| {row['starvation_missed']} | {row['starvation_false']} |"
        )
    return lines


def plot(comparison: Any, figure: str, path: Path, title: str) -> None:
    """Write predicted against measured figures, one point per run, as a small PNG."""
    from matplotlib.figure import Figure

    column = FIGURES[figure]
    canvas = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = canvas.subplots()
    for mask, label, marker in (
        (~comparison["validation"], "in the fit", "."),
        (comparison["validation"], "validation", "x"),
    ):
        part = comparison[mask]
        axes.loglog(part[column], part[f"{column}_predicted"], marker, ms=4, alpha=0.7, label=label)
    ends = [comparison[column].min(), comparison[column].max()]
    axes.loglog(ends, ends, lw=0.8, color="0.4")
    axes.set_xlabel(f"measured {LABELS[figure]}", fontsize=8)
    axes.set_ylabel("predicted", fontsize=8)
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7)
    with replacing_file(path) as unfinished:
        canvas.savefig(unfinished, format=path.suffix[1:])
