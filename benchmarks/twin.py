"""The twin against the measured runs: errors, start-up refusals, speed, memory.

    python -m benchmarks twin [--data FOLDER] [--json twin-benchmark.json] [--plots FOLDER]

Prints one table against the reach and writes every figure as JSON, and a row a run as CSV beside
it. The measured runs are looked for in ../shared/data/vllm-lora-h100, beside the repository. A
simulation is one thread; its speed is told by its CPU time, so other work on the machine does not
count.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from maitre.twin import ServerProfile, simulate
from maitre.twin.calibration.calibrate import comparison_row
from maitre.twin.calibration.errors_by_regime import errors
from maitre.twin.calibration.report import plot
from maitre.twin.calibration.runs import Traffic, simulation_of, usable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "vllm-lora-h100"
PROFILES = {
    "llama-3.1-8b-instruct": "h100-64gb/llama-3.1-8b-instruct",
    "qwen-2.5-7b-instruct": "h100-64gb/qwen-2.5-7b-instruct",
}
# Means of completed requests over all runs of a model.
TRAFFIC = {
    "llama-3.1-8b-instruct": Traffic("sharegpt", 222.4, 195.0),
    "qwen-2.5-7b-instruct": Traffic("sharegpt", 222.4, 191.8),
}
# Whole scenarios that no constant was fitted on.
VALIDATION = (
    "rank_32_rates_0.1_0.05_0.025",
    "rate_0.4-0.05-0.025_size_8-8-32",
    "rate_0.8-0.0125-0.003125_size_8-16-16",
)
COLUMNS = ("figure", "published twin", "reach", "measured")
MEMORY_PROBE = """
from pathlib import Path
from maitre.twin import *
loads = [AdapterLoad(f"a{i}", 8, 0.06) for i in range(384)]
work = Workload(loads, Lengths.named("sharegpt", 222.4, 195.0), 3600.0)
simulate(ServerProfile.load("h100-64gb/llama-3.1-8b-instruct"), ServerConfig(64, 384, 8), work)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def compare(runs: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = []
    first = runs.iloc[0]
    # Compiles the kernel, or loads it compiled.
    simulate(
        ServerProfile.load(PROFILES[first["model"]]),
        *simulation_of(first, TRAFFIC[first["model"]]),
    )
    for place, (_, run) in enumerate(runs.iterrows()):
        profile, traffic = ServerProfile.load(PROFILES[run["model"]]), TRAFFIC[run["model"]]
        server, workload = simulation_of(run, traffic)
        began = time.process_time()
        result = simulate(profile, server, workload, seed)
        cpu_s = time.process_time() - began
        row = comparison_row(run, result, traffic)
        row["model"] = run["model"]
        row["simulated_s_per_cpu_s"] = workload.duration_s / cpu_s
        rows.append(row)
        if (place + 1) % 50 == 0:
            print(f"{place + 1}/{len(runs)} runs", file=sys.stderr)
    frame = pd.DataFrame(rows)
    frame["validation"] = frame["scenario"].isin(VALIDATION)
    return frame


def start_ups(runs: pd.DataFrame) -> dict[str, int]:
    """Start-ups that the measured server refused, and those the profile decides wrongly."""
    refused = runs["status"].str.startswith("oom")
    served = (runs["status"] == "ok") & ~runs["contaminated"]
    predicted = np.array(
        [
            ServerProfile.load(PROFILES[model]).kv_cache_tokens(int(slots), int(rank)) is None
            for model, slots, rank in zip(
                runs["model"], runs["max_loras"], runs["max_lora_rank"], strict=True
            )
        ]
    )
    return {
        "refused": int(refused.sum()),
        "refusals_missed": int((refused & ~predicted).sum()),
        "served": int(served.sum()),
        "false_refusals": int((served & predicted).sum()),
    }


def peak_memory_mib() -> float:
    """Of a fresh interpreter that simulates one hour with 384 adapters (Linux).

    Not `ru_maxrss`: that begins with the size of the process that started this one.
    """
    probe = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True
    )
    return float(probe.stdout)


def reach_table(figures: dict) -> list[tuple[str, str, str, str]]:
    valid, speed, memory = figures["validation"], figures["speed"], figures["peak_memory_mib"]
    both = valid["both"]["all"]
    return [
        (
            "throughput error, validation",
            "4.2 / 5.1 %",
            "<= 1.5 %, bias within 1 %",
            _each(valid, "throughput"),
        ),
        ("inter-token latency error", "9.7 / 9.0 %", "<= 3.5 %", _each(valid, "itl")),
        ("time-to-first-token error", "17.6 / 17.9 %", "<= 8 %", _each(valid, "ttft")),
        (
            "starvation missed / false",
            "0 / 11 of 317",
            "0 / at most 1 %",
            f"{both['starvation_missed']} / {both['starvation_false']} of {both['runs']}"
            f" (all runs: {figures['all']['both']['all']['starvation_missed']}"
            f" / {figures['all']['both']['all']['starvation_false']}"
            f" of {figures['all']['both']['all']['runs']})",
        ),
        (
            "out of memory at start",
            "not modelled",
            "every one",
            f"{figures['start_up']['refusals_missed']} missed of {figures['start_up']['refused']}, "
            f"{figures['start_up']['false_refusals']} false of {figures['start_up']['served']}",
        ),
        (
            "simulated s per s of one core, median / slowest",
            "~330 / 17",
            ">= 20,000 / >= 1,000",
            f"{speed['median']:,.0f} / {speed['slowest']:,.0f}",
        ),
        ("peak memory, one hour", "38-485 MB", "<= 300 MB", f"{memory:.0f} MiB"),
    ]


def print_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def _each(valid: dict, figure: str) -> str:
    """Llama / Qwen errors, with bias in brackets."""
    return " / ".join(
        f"{valid[model]['all'][f'{figure}_error_percent']:.2f} % "
        f"({valid[model]['all'][f'{figure}_bias_percent']:+.2f})"
        for model in PROFILES
    )


def split_errors(frame: pd.DataFrame) -> dict:
    return {
        "both": errors(frame),
        **{model: errors(frame[frame["model"] == model]) for model in PROFILES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the measured runs")
    parser.add_argument("--json", type=Path, default=Path("twin-benchmark.json"))
    parser.add_argument("--plots", type=Path, default=None, help="folder for plots")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="use every n-th run only")
    options = parser.parse_args()
    table = options.data / "real_runs_share.parquet"
    if not table.is_file():
        parser.error(f"there is no {table}; give the folder of the measured runs with --data")
    runs = pd.read_parquet(table)
    frame = compare(usable(runs).iloc[:: options.every], options.seed)
    figures = {
        "validation_scenarios": list(VALIDATION),
        "runs": len(frame),
        "validation": split_errors(frame[frame["validation"]]),
        "fit": split_errors(frame[~frame["validation"]]),
        "all": split_errors(frame),
        "start_up": start_ups(runs),
        "speed": {
            "median": float(frame["simulated_s_per_cpu_s"].median()),
            "slowest": float(frame["simulated_s_per_cpu_s"].min()),
        },
        "peak_memory_mib": peak_memory_mib(),
        "profiles": {name: ServerProfile.load(name).fingerprint() for name in PROFILES.values()},
    }
    figures["reach"] = [dict(zip(COLUMNS, row, strict=True)) for row in reach_table(figures)]
    print_rows([COLUMNS, *reach_table(figures)])
    for model in ("both", *PROFILES):
        print(f"\nvalidation, {model}: error (bias), % by regime")
        for name, row in figures["validation"][model].items():
            print(
                f"  {name:40s} n={row['runs']:3d}"
                + "".join(
                    f"  {figure} {row[f'{figure}_error_percent']:.2f} "
                    f"({row[f'{figure}_bias_percent']:+.2f})"
                    for figure in ("throughput", "itl", "ttft")
                )
            )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    frame.to_csv(options.json.with_suffix(".csv"), index=False)
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for figure in ("throughput", "itl", "ttft"):
            for model, part in frame.groupby("model"):
                plot(part, figure, options.plots / f"{figure}-{model}.png", str(model))


if __name__ == "__main__":
    main()
