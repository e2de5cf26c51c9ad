"""`observed_traffic`: requests per adapter, as the gateway and the servers count them."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.serving.traffic_samples import store_sample
from assets.shared.inputs import OWNERS
from maitre import fingerprints
from maitre.errors import UserError
from maitre.serving.observe import Sight, counted, starving, throughput_tps
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
def observed_traffic(
    context: dg.AssetExecutionContext, config: TrafficConfig, home: DataHome, gateway: Gateway
) -> dg.MaterializeResult:
    """Measure requests per second by adapter, and the state of each server.

    Counters are compared from look to look; the sensor `traffic_drift` looks every minute, and this
    looks once more. Plans made from now on are for these rates.
    """
    if not gateway.routes().servers:
        raise UserError(
            f"no server is routed to: {gateway.routes_file} names none; `maitre deploy local` "
            "writes it"
        )
    seen = store_sample(home, gateway.look(time.time()), config.window_s)
    if len(seen) < 2:
        context.log.info(f"the first look; the second in {config.wait_s:g} s")
        time.sleep(config.wait_s)
        seen = store_sample(home, gateway.look(time.time()), config.window_s)
    requests, span_s = counted(seen)
    if span_s <= 0:
        raise UserError(f"rates are not known: {seen[-1].gateway or 'one look is not enough'}")
    rates = pd.DataFrame(
        {"adapter": adapter, "requests": count, "rate_rps": count / span_s}
        for adapter, count in sorted(requests.items())
    )
    servers = server_table(seen)
    about = {"at_s": seen[-1].at_s, "span_s": span_s, "requests": requests}
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
            "unseen": dict(seen[-1].unseen),
            "servers": dg.MetadataValue.md(servers.to_markdown(index=False)),
            "rates": dg.MetadataValue.md(rates.head(20).to_markdown(index=False)),
        },
    )


def server_table(sights: Sequence[Sight]) -> pd.DataFrame:
    """Return one row per server: its last figures, its throughput, and whether it starves."""
    waits = starving(sights[0], sights[-1])
    tokens = throughput_tps(sights)
    columns = ("server", "running", "waiting", "waiting_for_slot", "kv_usage")
    rows = [
        {
            **{name: getattr(server, name) for name in columns},
            "throughput_tps": round(tokens.get(server.server, 0.0), 1),
            "starving": waits.get(server.server, ""),
        }
        for server in sights[-1].servers
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
