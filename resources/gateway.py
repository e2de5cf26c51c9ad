"""The servers that traffic goes to, as a Dagster resource: samples at them, and nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from maitre.serving.observe import TrafficSample, sample_traffic
from maitre.serving.proxy.routes import Routes, read_routes

if TYPE_CHECKING:
    from maitre.twin.limits import VllmLimits

GATEWAY_TIMEOUT_S = 10.0


class Gateway(dg.ConfigurableResource):
    """The route file, and the gateway (the proxy, or another) that counts requests by model.

    `metrics_url` is its `/metrics`; empty: there is none, and rates are not known.
    """

    routes_file: str
    metrics_url: str = ""

    def routes(self) -> Routes:
        """Where requests go; none where nothing was deployed from here.

        Raises:
            ValueError: the file is not a route file.
        """
        return read_routes(Path(self.routes_file))

    def configs(self) -> "dict[str, VllmLimits]":
        """Return the limits that each server of this machine was started with.

        Empty on a cluster.

        Raises:
            ValueError: the list of servers beside the route file cannot be read.
        """
        from maitre.serving.fleet.fleet import read_fleet

        fleet = read_fleet(Path(self.routes_file).parent)
        return {name: server.config for name, server in fleet.items()}

    def sample(self, at_s: float) -> TrafficSample:
        """Every server's figures, and the gateway's counts; what cannot be read is named."""
        text, problem = self._gateway_metrics()
        return sample_traffic(self.routes(), at_s, text, problem)

    def _gateway_metrics(self) -> tuple[str | None, str]:
        import httpx2

        if not self.metrics_url:
            return None, "no gateway is named in the settings (gateway_metrics_url)"
        try:
            answer = httpx2.get(self.metrics_url, timeout=GATEWAY_TIMEOUT_S)
        except httpx2.HTTPError as error:
            return None, f"no gateway at {self.metrics_url}: {' '.join(str(error).split())}"
        if answer.status_code != 200:
            return None, f"{self.metrics_url} answered {answer.status_code}"
        return answer.text, ""
