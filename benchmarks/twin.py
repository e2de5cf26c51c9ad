"""The twin against the measured runs: errors, start-up refusals, speed, memory.

The measured runs are looked for in ../shared/data/vllm-lora-h100, beside the repository. A
simulation is one thread. Its speed is in CPU time, which other work on the machine disturbs little.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import Figure, Reach, Report, progress
from maitre.errors import UserError
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
# What the published twin reached, for the file.
PUBLISHED = {
    "throughput error": "4.2 / 5.1 %",
    "inter-token latency error": "9.7 / 9.0 %",
    "time-to-first-token error": "17.6 / 17.9 %",
    "starvation missed / false": "0 / 11 of 317",
    "out of memory at start": "not modelled",
    "simulated s per s of one core, median / slowest": "~330 / 17",
    "peak memory, one hour": "38-485 MB",
}
# Each kind of error with its reach and that of its bias, percent.
ERRORS = {
    "throughput": ("throughput", Reach(at_most=1.5), Reach(-1.0, 1.0)),
    "inter-token latency": ("itl", Reach(at_most=3.5), None),
    "time to first token": ("ttft", Reach(at_most=8.0), None),
}
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
            progress(f"{place + 1}/{len(runs)} runs")
    frame = pd.DataFrame(rows)
    frame["validation"] = frame["scenario"].isin(VALIDATION)
    return frame


def start_ups(runs: pd.DataFrame) -> dict[str, int]:
    """Return start-ups that the server refused, and those that the profile decides wrongly."""
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
    """Return the peak memory of an interpreter that simulates an hour with 384 adapters.

    Not `ru_maxrss`: that begins with the size of the process that started this one.
    """
    probe = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True
    )
    return float(probe.stdout)


def figures_of(details: dict) -> list[Figure]:
    """Return the figures of the table."""
    found = []
    for name, (key, reach, bias_reach) in ERRORS.items():
        for model in PROFILES:
            row = details["validation"][model]["all"]
            found += [
                Figure(f"{name}, {model}: error", row[f"{key}_error_percent"], "%", reach),
                Figure(f"{name}, {model}: bias", row[f"{key}_bias_percent"], "%", bias_reach),
            ]
    both, start_up = details["validation"]["both"]["all"], details["start_up"]
    runs = both["runs"]
    false_most = Reach(at_most=runs // 100)
    every_run = details["all"]["both"]["all"]
    all_runs = f"all {every_run['runs']} runs"
    return [
        *found,
        Figure(f"starvation missed, of {runs}", both["starvation_missed"], "", Reach(0, 0)),
        Figure(f"starvation false, of {runs}", both["starvation_false"], "", false_most),
        Figure(f"starvation missed, {all_runs}", every_run["starvation_missed"]),
        Figure(f"starvation false, {all_runs}", every_run["starvation_false"]),
        Figure(
            f"out of memory at start missed, of {start_up['refused']}",
            start_up["refusals_missed"],
            "",
            Reach(0, 0),
        ),
        Figure(
            f"out of memory at start false, of {start_up['served']}",
            start_up["false_refusals"],
            "",
            Reach(0, 0),
        ),
        Figure(
            "simulated seconds per CPU-second, median",
            details["speed"]["median"],
            "",
            Reach(at_least=20_000),
        ),
        Figure(
            "simulated seconds per CPU-second, slowest",
            details["speed"]["slowest"],
            "",
            Reach(at_least=1_000),
        ),
        Figure(
            "peak memory, one simulated hour",
            details["peak_memory_mib"],
            "MiB",
            Reach(at_most=300),
        ),
    ]


def split_errors(frame: pd.DataFrame) -> dict:
    return {
        "both": errors(frame),
        **{model: errors(frame[frame["model"] == model]) for model in PROFILES},
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the measured runs")
    parser.add_argument("--csv", type=Path, help="write one row per run here, too")
    parser.add_argument("--plots", type=Path, help="folder for plots")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="use every n-th run only")


def measure(options: argparse.Namespace) -> Report:
    table = options.data / "real_runs_share.parquet"
    if not table.is_file():
        raise UserError(f"{table}: no such file; name the folder of the measured runs with --data")
    runs = pd.read_parquet(table)
    frame = compare(usable(runs).iloc[:: options.every], options.seed)
    details = {
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
        "published": PUBLISHED,
    }
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(options.csv, index=False)
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for figure in ("throughput", "itl", "ttft"):
            for model, part in frame.groupby("model"):
                plot(part, figure, options.plots / f"{figure}-{model}.png", str(model))
    return Report(figures_of(details), details)
