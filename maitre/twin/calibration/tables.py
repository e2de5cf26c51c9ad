"""The measurement tables that calibration reads, checked for the columns it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from maitre.errors import reading
from maitre.twin.errors import TwinInputError, require

MEMORY_COLUMNS = ("max_loras", "max_lora_rank", "kv_cache_tokens")
LOADING_COLUMNS = ("adapter_rank", "source", "p50_ms")
STEP_COLUMNS = (
    "kind",
    "set_max_num_seqs",
    "set_max_loras",
    "max_lora_rank",
    "set_output_len",
    "served_adapters",
    "num_prompts",
    "total_input_tokens",
    "median_itl_ms",
    "step_interval_p50_ms",
    "adapters_in_batch_mean",
)
RUN_COLUMNS = (
    "run_id",
    "scenario",
    "status",
    "contaminated",
    "kv_anomaly",
    "client_collapsed",
    "max_loras",
    "max_cpu_loras",
    "max_lora_rank",
    "rank_classes",
    "rate_classes_rps",
    "adapters_per_rate_class",
    "offered_rps_nominal",
    "duration_s",
    "pool_mean_output_tokens",
    "total_throughput_tps",
    "output_throughput_tps",
    "throughput_ratio",
    "ttft_mean_ms",
    "itl_mean_ms",
    "running_mean",
    "inflight_max",
)
TIMESERIES_COLUMNS = ("run_id", "t_s")


@dataclass(frozen=True)
class Tables:
    """The measurements of one base model: memory, loading and step tables, and whole runs.

    `timeseries`: when the runs were scraped, where the API server's constants are to be fitted.
    """

    memory: Any
    loading: Any
    steps: Any
    runs: Any
    timeseries: Any | None = None


def read_tables(folder: Path, model: str, *, front: bool = False) -> Tables:
    """Read `calib_memory`, `calib_loading`, `calib_step_latency`, `real_runs_share` (Parquet).

    With `front` also `timeseries_share`, and the runs need their median time to first token.

    Raises:
        TwinInputError: a file or a column is missing, or there are no rows for `model`.
    """
    run_columns = (*RUN_COLUMNS, "ttft_p50_ms") if front else RUN_COLUMNS
    return Tables(
        memory=_read(folder / "calib_memory.parquet", model, MEMORY_COLUMNS),
        loading=_read(folder / "calib_loading.parquet", model, LOADING_COLUMNS),
        steps=_read(folder / "calib_step_latency.parquet", model, STEP_COLUMNS),
        runs=_read(folder / "real_runs_share.parquet", model, run_columns),
        timeseries=_columns(folder / "timeseries_share.parquet", TIMESERIES_COLUMNS)
        if front
        else None,
    )


def prefill_ms_of(folder: Path, model: str, scale: float) -> float:
    """Return a 2,048-token prefill step of another model, scaled, for a model that has none.

    Raises:
        TwinInputError: that model has no prefill calibration either, or `scale` is not positive.
    """
    require(scale > 0, f"calibration: the prefill scale must be positive, not {scale:g}")
    steps = _read(folder / "calib_step_latency.parquet", model, STEP_COLUMNS)
    full = steps[is_full_prefill(steps)]
    require(len(full) > 0, f"calibration: no full prefill steps of model {model!r} are measured")
    return scale * float(full["step_interval_p50_ms"].median())


def is_full_prefill(steps: Any) -> Any:
    """Return the rows in which every step is a prefill of 2,048 tokens."""
    return (steps["kind"] == "default_prefill") & (steps["num_prompts"] > 1000)


def _read(path: Path, model: str, columns: Sequence[str]) -> Any:
    frame = _columns(path, ("model", *columns))
    frame = frame[frame["model"] == model].reset_index(drop=True)
    require(len(frame) > 0, f"calibration: {path.name} has no rows for model {model!r}")
    return frame


def _columns(path: Path, columns: Sequence[str]) -> Any:
    require(path.is_file(), f"calibration: there is no {path.name} in {path.parent}")
    with reading(path, TwinInputError):
        frame = pd.read_parquet(path)
    for column in columns:
        require(column in frame, f"calibration: {path.name} has no column {column!r}")
    return frame
