"""`maitre up`: Dagster's webserver and daemon and the MLflow server, started and stopped as one."""

import signal
from typing import Annotated

import typer


def up(
    dagster_port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
) -> None:
    """Start Dagster and MLflow on this machine; Ctrl-C stops both."""
    from resources.local_services import LocalServices
    from resources.settings import Settings

    # So that whoever terminates this process does not leave the servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    services = LocalServices.start(Settings.read(), dagster_port, mlflow_port)
    try:
        services.wait_until_ready(timeout_s=120)
        print(f"Dagster  {services.dagster_url}")
        print(f"MLflow   {services.mlflow_url}")
        print(f"Logs     {services.log_folder}", flush=True)
        services.wait()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        services.stop()
