"""`maitre up`: Dagster, MLflow and the warm workers, started and stopped as one."""

import signal
from typing import Annotated

import typer


def up(
    dagster_port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    workers: Annotated[int, typer.Option(help="Warm workers; 0 starts every run cold.")] = 2,
    keep: Annotated[
        int | None, typer.Option(help="Never give back so many of them (default: all).")
    ] = None,
) -> None:
    """Start Dagster, MLflow and warm workers on this machine; Ctrl-C stops them."""
    from resources.local_services import LocalServices
    from resources.settings import Settings

    # So that whoever terminates this process does not leave the servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    services = LocalServices.start(Settings.read(), dagster_port, mlflow_port, workers, keep)
    try:
        services.wait_until_ready(timeout_s=120)
        print(f"Dagster  {services.dagster_url}")
        print(f"MLflow   {services.mlflow_url}")
        if workers:
            print(f"Workers  {workers} warm ones, holding the base model when loaded")
        print(f"Logs     {services.log_folder}", flush=True)
        services.wait()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        services.stop()
