"""The report of a fit to measured samples: every designed point and every load, as Markdown."""

from typing import Any

import numpy as np
import pandas as pd

from maitre.twin.fitting.design import MeasuredServer
from maitre.twin.fitting.equations import step_equations
from maitre.twin.fitting.fidelity import errors_by_role
from maitre.twin.fitting.fit import fit_step
from maitre.twin.fitting.samples import lateness_ms
from maitre.twin.fitting.steps import load_steps
from maitre.twin.profile import ServerProfile

LOAD_COLUMNS = {
    "point": "load",
    "requests": "requests",
    "ratio": "delivered, measured",
    "ratio_predicted": "twin",
    "throughput_tps": "tokens/s, measured",
    "throughput_tps_predicted": "twin ",
    "itl_ms": "between tokens ms, measured",
    "itl_ms_predicted": "twin  ",
    "ttft_ms": "first token ms, measured",
    "ttft_ms_predicted": "twin   ",
}


def fit_report(
    profile: ServerProfile, samples: Any, server: MeasuredServer, loads: pd.DataFrame
) -> str:
    """Return measurements, the fit point by point, and the twin on each load, as Markdown.

    `loads` is what `compare_loads` found for the profile.
    """
    late = lateness_ms(samples)
    used = samples[samples["role"] == "fit"]
    parts = [
        f"# Fit of {profile.name}",
        f"{profile.engine.gpu}; {profile.engine.text}; {profile.base_model}. "
        f"Server: {server.max_loras} slots "
        f"of rank {server.max_lora_rank}, max_num_seqs {server.max_num_seqs}, "
        f"max_num_batched_tokens {server.max_num_batched_tokens}, {server.kv_cache_tokens} tokens "
        f"of KV cache. Fingerprint {profile.fingerprint()}.",
        f"{len(samples)} requests in {samples['burst'].nunique()} points, sent {late['p50']:.1f} "
        f"ms late at the median, {late['p99']:.1f} at p99, {late['max']:.1f} at worst.",
        "## Errors on loads, in percent",
        _table(pd.DataFrame(errors_by_role(loads)).rename_axis("figure").reset_index()),
        "## Loads",
        _table(loads[list(LOAD_COLUMNS)].rename(columns=LOAD_COLUMNS).round(3)),
        "## Bursts and lone prefills, ms",
        "`burst-b8-l4-c16`: 8 requests of 16 tokens for 4 adapters (l0: the base model). The "
        "median gap while all decode, and of one request alone its time to first token too.",
        _table(_points(used, server)),
    ]
    return "\n\n".join(parts) + "\n"


def _points(used: Any, server: MeasuredServer) -> pd.DataFrame:
    found = fit_step(step_equations(used), load_steps(used, server)).equations
    shown = found.assign(kind=np.where(found["front"] > 0, "first token", "step"))
    means = shown.groupby(["point", "kind"], sort=True).agg(
        times=("y", "size"), measured=("y", "mean"), fitted=("fitted", "mean")
    )
    ratio = means["fitted"] / means["measured"]
    return means.round(1).assign(ratio=ratio.round(2)).reset_index()


def _table(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(index=False))
