"""`maitre up`: Dagster, MLflow, warm workers and the proxy, started and stopped as one."""

import os
import signal
from typing import Annotated

import typer

PROXY_PORT = 8000


def up(
    dagster_port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    workers: Annotated[int, typer.Option(help="Warm workers; 0 starts every run cold.")] = 2,
    keep: Annotated[
        int | None, typer.Option(help="Never give back so many of them (default: all).")
    ] = None,
    proxy_port: Annotated[
        int, typer.Option(help="Port of the proxy to deployed servers.")
    ] = PROXY_PORT,
) -> None:
    """Start Dagster, MLflow and warm workers on this machine; Ctrl-C stops them.

    And the proxy, where `maitre deploy local` has started servers; those are left running.
    """
    from resources.local_services import LocalServices
    from resources.settings import Settings
    from resources.vllm.proxy_process import ProxyProcess

    # So that whoever terminates this process does not leave the servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if proxy_port != PROXY_PORT:
        os.environ["MAITRE_GATEWAY_METRICS_URL"] = f"http://127.0.0.1:{proxy_port}/metrics"
    settings = Settings.read()
    services = LocalServices.start(settings, dagster_port, mlflow_port, workers, keep)
    proxy = None
    try:
        proxy = ProxyProcess.start_where_routed(
            settings.scratch / "serving",
            services.log_folder,
            proxy_port,
            (settings.pool, settings.base_model),
        )
        services.wait_until_ready(timeout_s=120)
        if proxy is not None:
            proxy.wait_until_ready()
        print(f"Dagster  {services.dagster_url}")
        print(f"MLflow   {services.mlflow_url}")
        if workers:
            print(f"Workers  {workers} warm ones, holding the base model when loaded")
        print(f"Proxy    {proxy.url if proxy else 'none: no server is deployed here'}")
        print(f"Logs     {services.log_folder}", flush=True)
        services.wait()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        if proxy is not None:
            proxy.stop()
        services.stop()
