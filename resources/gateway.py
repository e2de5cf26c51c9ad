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

    `metrics_url` is the gateway's `/metrics`. Without it rates are not known.
    """

    routes_file: str
    metrics_url: str = ""

    def routes(self) -> Routes:
        """Return where requests go; no servers if nothing was deployed from here.

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
        """Return every server's figures and the gateway's counts; name what cannot be read."""
        text, problem = self._gateway_metrics()
        return sample_traffic(self.routes(), at_s, text, problem)

    def _gateway_metrics(self) -> tuple[str | None, str]:
        import httpx2

        if not self.metrics_url:
            return None, "gateway_metrics_url: expected the URL of a gateway's /metrics; got none"
        try:
            answer = httpx2.get(self.metrics_url, timeout=GATEWAY_TIMEOUT_S)
        except httpx2.HTTPError as error:
            return None, f"{self.metrics_url}: no answer: {' '.join(str(error).split())}"
        if answer.status_code != 200:
            return None, f"{self.metrics_url} answered {answer.status_code}"
        return answer.text, ""
