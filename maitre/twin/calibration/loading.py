"""How long bringing an adapter to the GPU takes."""

from typing import Any

import numpy as np

from maitre.twin.errors import require
from maitre.twin.profile import Loading


def fit_loading(table: Any, switch_ms: float) -> tuple[Loading, dict[str, Any]]:
    """Fit straight lines over the adapter's rank, through the medians of each source.

    `switch_ms` is passed on: only runs show it (`step_time.fit_lora`).
    """
    lines = {}
    fit: dict[str, Any] = {}
    for source in ("cpu_to_gpu_serving", "disk_to_cpu"):
        rows = table[table["source"] == source]
        require(len(rows) >= 2, f"calibration.loading: fewer than two rows of source {source!r}")
        ranks, times = rows["adapter_rank"].to_numpy(float), rows["p50_ms"].to_numpy(float)
        slope, start = np.polyfit(ranks, times, 1) if np.ptp(ranks) > 0 else (0.0, times.mean())
        if slope < 0:  # GPU copies go by the slot's size; smaller adapters are not slower.
            slope, start = 0.0, times.mean()
        lines[source] = (float(start), float(slope))
        error = 100 * np.abs(start + slope * ranks - times) / times
        fit[f"{source}_error_mean_percent"] = round(float(error.mean()), 2)
    (gpu, gpu_rank), (disk, disk_rank) = lines["cpu_to_gpu_serving"], lines["disk_to_cpu"]
    return Loading(
        cpu_to_gpu_ms=round(gpu, 3),
        cpu_to_gpu_per_rank_ms=round(gpu_rank, 4),
        disk_to_cpu_ms=round(disk, 3),
        disk_to_cpu_per_rank_ms=round(disk_rank, 4),
        switch_ms=switch_ms,
    ), fit
