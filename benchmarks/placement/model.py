"""Figures of the capacity model: against the twin, against measured runs, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.report import Figure
from maitre.files import replacing_file
from maitre.maxpack.active import uncertain_points
from maitre.maxpack.design import DESIGN_VERSION, Point, design
from maitre.maxpack.evaluate import evaluate, risk_reliability
from maitre.maxpack.fit import fit_model
from maitre.maxpack.inputs import FEATURES
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.options import default_lengths
from maitre.maxpack.scores import macro_f1, signed_error, symmetric_error
from maitre.maxpack.traces import make_traces, point_features
from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload

TRAINING_SEED, TEST_SEED = 1, 2
PIECE = 400
SEED_STRIDE = 1_000_000
MEASURED_COLUMNS = ("contaminated", "kv_anomaly", "client_collapsed")


def traces_of(
    profile: ServerProfile, points: int, seed: int, duration_s: float, work: Path
) -> pd.DataFrame:
    """Return simulated designed configurations, stored in pieces so that a stopped run goes on.

    A longer design begins with the shorter one, so a run for more points takes over what is there.
    """
    designed: list[Point] = []
    pieces = []
    for start in range(0, points, PIECE):
        size = min(PIECE, points - start)
        version = f"v{DESIGN_VERSION}-{profile.fingerprint()}"
        kept = work / f"traces-{version}-{seed}-{start:05d}-{size}.parquet"
        if not kept.is_file():
            designed = designed or design(profile, points, seed=seed)
            some = designed[start : start + size]
            _simulate_into(kept, profile, some, duration_s, seed * SEED_STRIDE + start)
        pieces.append(pd.read_parquet(kept))
    return pd.concat(pieces, ignore_index=True)


def _simulate_into(
    path: Path, profile: ServerProfile, points: list[Point], duration_s: float, seed: int
) -> None:
    began = time.perf_counter()
    traces = make_traces(profile, points, duration_s, seed)
    traces["wall_s"] = (time.perf_counter() - began) / len(traces)
    with replacing_file(path) as unfinished:
        traces.to_parquet(unfinished)


def training_traces(
    profile: ServerProfile, points: int, refining_rounds: int, duration_s: float, work: Path
) -> pd.DataFrame:
    """Return space-filling configurations, then in rounds those of which a model is unsure."""
    traces = traces_of(profile, points, TRAINING_SEED, duration_s, work)
    for round_ in range(refining_rounds):
        kept = work / f"traces-{profile.fingerprint()}-{points}-refined-{round_}.parquet"
        if not kept.is_file():
            model = fit_model(traces.drop(columns="wall_s"), iterations=150)
            seed = TRAINING_SEED + 10 * (round_ + 1)
            chosen = uncertain_points(profile, model, points // 4, seed)
            _simulate_into(kept, profile, chosen, duration_s, seed * SEED_STRIDE)
        traces = pd.concat([traces, pd.read_parquet(kept)], ignore_index=True)
    return traces


def fitted(profile: ServerProfile, training: pd.DataFrame, work: Path) -> MaxpackModel:
    """Return the model of these traces, stored in the folder `work`."""
    folder = work / f"model-{profile.fingerprint()}-{len(training)}"
    if folder.is_dir():
        return MaxpackModel.load(folder)
    model = fit_model(training.drop(columns="wall_s"), iterations=400)
    model.save(folder)
    return model


def model_figures(model: MaxpackModel, test: pd.DataFrame) -> list[Figure]:
    """Return scores on unseen configurations, and the time that predictions take."""
    scores = evaluate(model, test)
    figures = [
        Figure("training traces", model.card.rows),
        Figure("wall time to simulate one trace", round(float(test["wall_s"].mean()), 4), "s"),
        Figure("reliability of the risk", str(risk_reliability(model, test).to_dict())),
        *(
            Figure(f"model against twin, unseen: {name}", round(value, 4))
            for name, value in scores.to_dict().items()
        ),
    ]
    many = pd.concat([test[list(FEATURES)]] * (10_000 // len(test) + 1)).iloc[:10_000]
    one = many.iloc[:1].to_numpy()
    each_us = _microseconds(lambda: model.predict(many), 5) / 10_000
    one_ms = _microseconds(lambda: model.predict_one(one), 200) / 1_000
    return [
        *figures,
        Figure("prediction, each of 10,000 in one call", round(each_us, 3), "us"),
        Figure("one prediction of throughput and risk", round(one_ms, 4), "ms"),
    ]


def measured_figures(profile: ServerProfile, model: MaxpackModel, shared: Path) -> list[Figure]:
    """Return throughput and starvation against the published measurements of real servers."""
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
            Figure(f"measured runs, {name}: runs", int(mine.sum())),
            Figure(
                f"measured runs, {name}: throughput error",
                round(symmetric_error(*throughput), 3),
                "%",
            ),
            Figure(
                f"measured runs, {name}: signed error", round(signed_error(*throughput), 3), "%"
            ),
            Figure(
                f"measured runs, {name}: starvation macro-F1",
                round(macro_f1(starved, runs["starved"].to_numpy(dtype=bool)[mine]), 4),
            ),
        ]
    return figures


def measured_point(row: pd.Series, lengths: Lengths) -> Point:
    """Return a measured run as a point for the twin; which adapter has which rate is not known."""
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


def _microseconds(call: Callable[[], Any], times: int) -> float:
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return 1e6 * (time.perf_counter() - start) / times
