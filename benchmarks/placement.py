"""Prints what the capacity model and the placement achieve, as one table; writes it as JSON.

    python benchmarks/placement.py [--profile NAME] [--points N] [--sizes 100 1000 10000]
                                   [--shared ../shared/data] [--work FOLDER] [--out placement.json]

With `--work` each part's figures are kept there as they come, and so are the traces: a run that is
stopped goes on where it was, and `--parts` of it can be run one at a time.

Training and test configurations are designed under different seeds. The measured runs, if their
folder is given, are seen by neither the model's training nor its scoring on the twin.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maitre.maxpack.design import Point, design, make_traces, point_features
from maitre.maxpack.evaluate import evaluate, risk_reliability
from maitre.maxpack.inputs import FEATURES
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import ServerOptions, default_lengths
from maitre.maxpack.scores import macro_f1, signed_error, symmetric_error
from maitre.placement.bound import relaxed_servers
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.check import check_plan
from maitre.placement.place import place
from maitre.placement.replan import replan
from maitre.placement.replicas import as_is
from maitre.placement.settings import DEFAULT_HEADROOM
from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload

CHECKED_UP_TO = 1_000
FRESH_SEEDS = (1_001, 2_002, 3_003)
MEASURED_COLUMNS = ("contaminated", "kv_anomaly", "client_collapsed")


def main() -> None:
    """Run every part and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="h100-64gb/llama-3.1-8b-instruct")
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--duration", type=float, default=3_600.0)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--traces", type=Path, help="Parquet of training traces to reuse.")
    parser.add_argument("--work", type=Path, help="Folder to go on in.")
    parser.add_argument("--parts", nargs="*", help="Only these: model, measured, SIZE-KIND.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    profile = ServerProfile.load(arguments.profile)
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    model = fitted(profile, arguments.points, arguments.duration, arguments.traces, work)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "model": lambda: model_figures(profile, model, arguments.points, arguments.duration)
    }
    if arguments.shared:
        parts["measured"] = lambda: measured_figures(profile, model, arguments.shared)
    for size in arguments.sizes:
        for kind in ("class", "zipf", "lognormal"):
            parts[f"{size}-{kind}"] = partial(_placed, profile, model, size, kind)
    figures = []
    for name, measure in parts.items():
        if arguments.parts and name not in arguments.parts:
            continue
        kept = work / f"{name}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(measure(), indent=2, default=str))
        found = json.loads(kept.read_text())
        figures += found
        for figure in found:
            print(f"{figure['figure']:64s} {figure['value']}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2))


def _placed(
    profile: ServerProfile, model: MaxpackModel, size: int, kind: str
) -> list[dict[str, Any]]:
    return placement_figures(profile, model, catalogue(profile, size, kind), kind)


def fitted(
    profile: ServerProfile, points: int, duration_s: float, traces: Path | None, work: Path
) -> MaxpackModel:
    """The model of these many training traces, kept in the folder `work`."""
    folder = work / f"model-{profile.fingerprint()}-{points}"
    if folder.is_dir():
        return MaxpackModel.load(folder)
    training = (
        pd.read_parquet(traces)
        if traces
        else make_traces(profile, design(profile, points, seed=1), duration_s, seed=1_000_000)
    )
    model = MaxpackModel.fit(training, iterations=400)
    model.save(folder)
    return model


def model_figures(
    profile: ServerProfile, model: MaxpackModel, points: int, duration_s: float
) -> list[dict[str, Any]]:
    count = max(100, points // 4)
    start = time.perf_counter()
    test = make_traces(profile, design(profile, count, seed=2), duration_s, seed=2_000_000)
    simulated_s = time.perf_counter() - start
    scores = evaluate(model, test)
    figures = [
        _figure("training traces", model.card.rows),
        _figure("seconds of wall time to simulate one trace", round(simulated_s / count, 4)),
        _figure("reliability of the risk", risk_reliability(model, test).to_dict()),
        *(
            _figure(f"model against twin, unseen: {name}", round(value, 4))
            for name, value in scores.to_dict().items()
        ),
    ]
    many = pd.concat([test[list(FEATURES)]] * (10_000 // len(test) + 1)).iloc[:10_000]
    one = many.iloc[:1].to_numpy()
    figures += [
        _figure("microseconds each, 10,000 predictions in one call", _microseconds(
            lambda: model.predict(many), 5) / 10_000),
        _figure("milliseconds, one prediction of throughput and risk", _microseconds(
            lambda: model.predict_one(one), 200) / 1_000),
    ]  # fmt: skip
    return figures


def measured_figures(
    profile: ServerProfile, model: MaxpackModel, shared: Path
) -> list[dict[str, Any]]:
    runs = pd.read_parquet(shared / "vllm-lora-h100" / "real_runs_share.parquet")
    runs = runs[(runs["status"] == "ok") & (runs["model"] == profile.base_model)]
    sound = ~runs[list(MEASURED_COLUMNS)].fillna(False).astype(bool).any(axis=1)
    runs = runs[sound].reset_index(drop=True)
    lengths = default_lengths()
    predicted = model.predict(
        point_features(profile, [measured_point(row, lengths) for _, row in runs.iterrows()])
    )
    figures = []
    for family, name in (("test", "validation scenarios"), ("dt", "calibration scenarios")):
        mine = (runs["family"] == family).to_numpy()
        throughput = (
            predicted["throughput_tps"].to_numpy()[mine],
            runs["total_throughput_tps"].to_numpy()[mine],
        )
        starved = predicted["starved_probability"].to_numpy()[mine] > 0.5
        figures += [
            _figure(f"measured runs, {name}: runs", int(mine.sum())),
            _figure(f"measured runs, {name}: throughput error",
                    round(symmetric_error(*throughput), 3)),
            _figure(f"measured runs, {name}: signed", round(signed_error(*throughput), 3)),
            _figure(f"measured runs, {name}: starvation macro-F1",
                    round(macro_f1(starved, runs["starved"].to_numpy(dtype=bool)[mine]), 4)),
        ]  # fmt: skip
    return figures


def measured_point(row: pd.Series, lengths: Lengths) -> Point:
    """A measured run as the twin takes it; which adapter has which rate is not known."""
    ranks = [int(rank) for rank in str(row["rank_classes"]).split()]
    counts = [int(count) for count in str(row["adapters_per_rate_class"]).split()]
    rates = [float(rate) for rate in str(row["rate_classes_rps"]).split()]
    each = [rate for rate, count in zip(rates, counts, strict=True) for _ in range(count)]
    loads = [AdapterLoad(f"a{i}", ranks[i % len(ranks)], rate) for i, rate in enumerate(each)]
    config = ServerConfig(
        max_loras=int(row["max_loras"]),
        max_cpu_loras=max(int(row["max_cpu_loras"]), int(row["max_loras"])),
        max_lora_rank=max(int(row["max_lora_rank"]), *ranks),
    )
    return config, Workload(adapters=loads, lengths=lengths)


def catalogue(profile: ServerProfile, adapters: int, kind: str, seed: int = 0) -> AdapterCatalogue:
    """A catalogue of mean rate near 0.3 requests/s: in classes, by Zipf's law or log-normal."""
    rng = np.random.default_rng([seed, adapters])
    if kind == "class":
        rates = rng.choice([0.025, 0.1, 0.4, 1.6], adapters, p=[0.4, 0.3, 0.2, 0.1])
    elif kind == "zipf":
        rates = np.arange(1, adapters + 1) ** -0.9
        rates = rng.permutation(rates * 0.3 * adapters / rates.sum())
    else:
        rates = np.exp(rng.normal(np.log(0.12), 1.4, adapters)).clip(0.001, 10)
    return AdapterCatalogue.from_frame(
        pd.DataFrame(
            {
                "adapter": [f"a{i}" for i in range(adapters)],
                "base_model": profile.base_model,
                "rank": rng.choice([8, 16, 32], adapters, p=[0.5, 0.35, 0.15]),
                "rate_rps": rates,
            }
        ),
        source=f"{adapters} {kind}",
    )


def placement_figures(
    profile: ServerProfile, model: MaxpackModel, adapters: AdapterCatalogue, kind: str
) -> list[dict[str, Any]]:
    size, name = len(adapters), f"{len(adapters)} adapters, {kind}"
    small = size <= CHECKED_UP_TO
    start = time.perf_counter()
    plan = place(adapters, profile, model=model, check_duration_s=0, baselines=False)
    packed_s = time.perf_counter() - start
    figures = [_figure(f"{name}: seconds to pack, without the check", round(packed_s, 2))]
    if not small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model, baselines=False)
        checked_s = time.perf_counter() - start
        figures.append(_figure(f"{name}: seconds with a sample checked", round(checked_s, 2)))
    if small:
        start = time.perf_counter()
        plan = place(adapters, profile, model=model)
        checked_s = time.perf_counter() - start
        figures.append(_figure(f"{name}: seconds with check and baselines", round(checked_s, 2)))
        others = sorted(plan.baselines.values())
        figures += [
            _figure(f"{name}: baselines", plan.baselines),
            _figure(f"{name}: saved against the best baseline, %",
                    round(100 * (1 - plan.gpus / others[0]), 1)),
            _figure(f"{name}: saved against the median baseline, %",
                    round(100 * (1 - plan.gpus / np.median(others)), 1)),
        ]  # fmt: skip
    options_bound = _bounds(profile, adapters)
    figures += [
        _figure(f"{name}: GPUs", plan.gpus),
        _figure(f"{name}: lower bound (before rounding up)", round(options_bound[0], 2)),
        _figure(f"{name}: GPUs / bound", round(plan.gpus / np.ceil(options_bound[0]), 3)),
        _figure(f"{name}: GPUs / bound at rates 5 % higher",
                round(plan.gpus / np.ceil(options_bound[1]), 3)),
    ]  # fmt: skip
    if small:
        figures += replay_figures(profile, model, adapters, plan, name)
    return figures


def replay_figures(
    profile: ServerProfile, model: MaxpackModel, adapters: AdapterCatalogue, plan: Any, name: str
) -> list[dict[str, Any]]:
    figures = []
    for factor in (1.0, 1.05):
        checks = [
            check_plan(plan, profile, adapters, seed, rate_factor=factor) for seed in FRESH_SEEDS
        ]
        servers = plan.gpus * len(checks)
        figures += [
            _figure(f"{name}: servers starving at {factor:g}x rates, of {servers}",
                    sum(len(check.starved) for check in checks)),
            _figure(f"{name}: servers unhealthy at {factor:g}x rates, of {servers}",
                    sum(len(check.unhealthy) for check in checks)),
        ]  # fmt: skip
    rng = np.random.default_rng(7)
    rates = adapters.rates_rps.copy()
    changed = rng.choice(len(rates), max(1, len(rates) // 20), replace=False)
    rates[changed] *= np.where(rng.random(len(changed)) < 0.5, 2.0, 0.5)
    after = replan(plan, adapters.with_rates(rates), profile, model=model)
    moves = plan.diff(after).moves
    return [
        *figures,
        _figure(f"{name}: moves when 5 % of rates change by 2x, % of adapters",
                round(100 * len(moves) / len(rates), 2)),
        _figure(f"{name}: GPUs before and after", f"{plan.gpus} -> {after.gpus}"),
    ]  # fmt: skip


def _bounds(profile: ServerProfile, adapters: AdapterCatalogue) -> tuple[float, float]:
    lengths = default_lengths()
    options = ServerOptions.of(profile, lengths)
    return (
        relaxed_servers(as_is(adapters, lengths), options),
        relaxed_servers(as_is(adapters, lengths, 1 + DEFAULT_HEADROOM), options),
    )


def _microseconds(call: Any, times: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return round(1e6 * (time.perf_counter() - start) / times, 3)


def _figure(name: str, value: Any) -> dict[str, Any]:
    return {"figure": name, "value": value}


if __name__ == "__main__":
    main()
