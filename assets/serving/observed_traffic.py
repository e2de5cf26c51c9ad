"""`observed_traffic`: request rates per adapter from the gateway, queues from the servers."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.serving.traffic_samples import store_sample
from assets.shared.inputs import OWNERS
from assets.shared.retries import retry_outages
from maitre import fingerprints
from maitre.errors import UserError
from maitre.serving.observe import TrafficSample, request_counts, starving_servers, throughput_tps
from resources.data_home import DataHome
from resources.gateway import Gateway

if TYPE_CHECKING:
    from maitre.placement.catalogue import AdapterCatalogue

WINDOW_S = 600.0


class TrafficConfig(dg.Config):
    """The window of the rates, and how long to wait for a second sample."""

    window_s: float = Field(default=WINDOW_S, description="Window of the rates, in seconds.")
    wait_s: float = Field(
        default=30.0, description="Seconds between two samples where no earlier sample exists."
    )


@dg.asset(
    group_name="serving",
    kinds={"prometheus"},
    owners=OWNERS,
    code_version="1",
    # Plans ignore rates that are older than a day (`PlacementConfig.traffic_max_age_s`).
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=1), warn_window=timedelta(hours=6)
    ),
)
@retry_outages
def observed_traffic(
    context: dg.AssetExecutionContext, config: TrafficConfig, home: DataHome, gateway: Gateway
) -> dg.MaterializeResult:
    """Measure requests per second by adapter, and the state of each server.

    The rates come from the samples of the last `window_s`. The sensor `traffic_drift` takes one
    every minute; this asset takes one more. The next plan uses these rates.
    """
    if not gateway.routes().servers:
        raise UserError(
            f"{gateway.routes_file}: expected at least one server; got none; "
            "`maitre deploy local` starts servers and writes this file"
        )
    samples = store_sample(home, gateway.sample(time.time()), config.window_s)
    if len(samples) < 2:
        context.log.info(f"the first sample is stored; the second follows in {config.wait_s:g} s")
        time.sleep(config.wait_s)
        samples = store_sample(home, gateway.sample(time.time()), config.window_s)
    requests, span_s = request_counts(samples)
    if span_s <= 0:
        reason = samples[-1].gateway or "the gateway answered in fewer than two samples"
        raise UserError(f"request rates are unknown: {reason}")
    rates = pd.DataFrame(
        {"adapter": adapter, "requests": count, "rate_rps": count / span_s}
        for adapter, count in sorted(requests.items())
    )
    servers = server_table(samples)
    about = {"at_s": samples[-1].at_s, "span_s": span_s, "requests": requests}
    home.write_observed_traffic(rates, servers, about)
    total = float(rates["rate_rps"].sum()) if len(rates) else 0.0
    context.log.info(f"{len(rates)} models, {total:.2f} requests/s over {span_s:.0f} s")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(_version(requests, span_s)),
        metadata={
            "models": len(rates),
            "rate_rps": total,
            "span_s": span_s,
            "waiting": float(servers["waiting"].sum()),
            "starving": dict(zip(servers["server"], servers["starving"], strict=True)),
            "unseen": dict(samples[-1].unseen),
            "servers": dg.MetadataValue.md(servers.to_markdown(index=False)),
            "rates": dg.MetadataValue.md(rates.head(20).to_markdown(index=False)),
        },
    )


def server_table(samples: Sequence[TrafficSample]) -> pd.DataFrame:
    """Return one row per server: its last figures, its throughput, and whether it starves."""
    waits = starving_servers(samples[0], samples[-1])
    tokens = throughput_tps(samples)
    columns = ("server", "running", "waiting", "waiting_for_slot", "kv_usage")
    rows = [
        {
            **{name: getattr(server, name) for name in columns},
            "throughput_tps": round(tokens.get(server.server, 0.0), 1),
            "starving": waits.get(server.server, ""),
        }
        for server in samples[-1].servers
    ]
    return pd.DataFrame(rows, columns=[*columns, "throughput_tps", "starving"])


def at_observed_rates(
    home: DataHome, catalogue: "AdapterCatalogue", now_s: float, max_age_s: float
) -> tuple["AdapterCatalogue", bool]:
    """Return the catalogue at the observed rates, and whether rates recent enough exist."""
    from maitre.placement.drift import expected_rates_rps

    about = home.observed_traffic()
    if about is None or now_s - about["at_s"] > max_age_s:
        return catalogue, False
    rates = expected_rates_rps(catalogue, about["requests"], about["span_s"])
    return catalogue.with_rates(rates), True


def _version(requests: dict[str, float], span_s: float) -> str:
    text = f"{span_s:.1f} " + " ".join(f"{k}={v:g}" for k, v in sorted(requests.items()))
    return fingerprints.of_bytes(text.encode())
