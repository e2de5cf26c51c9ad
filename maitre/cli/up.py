"""`maitre up`: Dagster, MLflow, warm workers and the proxy, started and stopped as one."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maitre.cli.given_settings import settings_of
from maitre.errors import UserError

if TYPE_CHECKING:
    from maitre.serving.proxy.proxy_process import ProxyProcess
    from maitre.settings import Settings

PROXY_PORT = 8000
STOP_S = 2.5
LAST_PORT = 65535


def up(
    context: typer.Context,
    dagster_port: Annotated[
        int, typer.Option(help="Port of the Dagster UI.", min=1, max=LAST_PORT)
    ] = 3000,
    mlflow_port: Annotated[
        int, typer.Option(help="Port of the MLflow UI.", min=1, max=LAST_PORT)
    ] = 5000,
    workers: Annotated[int, typer.Option(help="Warm workers; 0 starts every run cold.", min=0)] = 2,
    keep: Annotated[
        int | None, typer.Option(help="Keep this many of them, however idle (default: all).", min=0)
    ] = None,
    proxy_port: Annotated[
        int, typer.Option(help="Port of the proxy to deployed servers.", min=1, max=LAST_PORT)
    ] = PROXY_PORT,
) -> None:
    """Start Dagster, MLflow and warm workers on this machine; Ctrl-C or `maitre down` stops them.

    Start the proxy, too, where `maitre deploy local` has started servers; those servers are left
    running. A server that ends is started again. One home has one `maitre up`.
    """
    from maitre.processes.ports import check_free
    from maitre.workers.home_lock import HomeLock
    from maitre.workers.local_services import LocalServices
    from maitre.workers.scheduling.cluster_file import cluster_knowing

    # So that whoever terminates this process does not leave the servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = settings_of(context)
    if proxy_port != PROXY_PORT:
        counted_at = f"http://127.0.0.1:{proxy_port}/metrics"
        settings = settings.model_copy(update={"gateway_metrics_url": counted_at})
    dagster_home = Path(os.environ.get("DAGSTER_HOME", f"{settings.home}/dagster"))
    if keep is not None and keep > workers:
        raise UserError(f"--keep {keep}: there are {workers} to keep (--workers)")
    if workers:
        cluster_knowing(settings, settings.base_model_name)
    addresses = {
        "Dagster": f"http://127.0.0.1:{dagster_port}",
        "MLflow": f"http://127.0.0.1:{mlflow_port}",
    }
    lock = HomeLock.acquire(settings.scratch, addresses)
    services = proxy = None
    try:
        check_free("--dagster-port", dagster_port)
        check_free("--mlflow-port", mlflow_port)
        services = LocalServices.start(
            settings, dagster_home, dagster_port, mlflow_port, lock.record, workers, keep
        )
        services.wait_until_ready(timeout_s=120)
        proxy, where = _proxy_or_why_not(settings, services.log_folder, proxy_port, lock.record.id)
        print(f"Dagster  {services.dagster_url}")
        print(f"MLflow   {services.mlflow_url}")
        if workers:
            print(f"Workers  {workers} warm ones, holding the base model when loaded")
        print(f"Proxy    {where}")
        print(f"Logs     {services.log_folder}", flush=True)
        services.wait(_saying_once_that_it_ended(proxy))
    except KeyboardInterrupt:
        print("stopping")
    finally:
        if proxy is not None:
            proxy.stop()
        if services is not None:
            services.stop()
        lock.release()


def down(context: typer.Context) -> None:
    """End the `maitre up` of the data home and all that it started, also after it was killed."""
    from maitre.workers.home_lock import end_system
    from maitre.workers.running_services import forget_services

    settings = settings_of(context)
    home = settings.scratch
    ended = end_system(home, timeout_s=STOP_S)
    if ended:
        forget_services(settings.home)
    print(f"{ended} processes ended" if ended else f"nothing runs in {home}")


def _proxy_or_why_not(
    settings: "Settings", log_folder: Path, port: int, up_id: str
) -> tuple["ProxyProcess | None", str]:
    """Return the proxy and its address, or `None` and the reason: nothing else depends on it."""
    from maitre.serving.proxy.proxy_process import ProxyProcess

    serving, base_model = (
        settings.scratch / "serving",
        (settings.base_model_name, settings.base_model),
    )
    proxy = None
    try:
        proxy = ProxyProcess.start_where_routed(serving, log_folder, port, base_model, up_id)
        if proxy is None:
            return None, "none: no server is deployed here"
        proxy.wait_until_ready()
    except UserError as error:
        return None, f"no proxy: {' '.join(str(error).split())}"
    except KeyboardInterrupt:
        if proxy is not None:
            proxy.stop()
        raise
    return proxy, proxy.url


def _saying_once_that_it_ended(proxy: "ProxyProcess | None") -> Callable[[], None]:
    """Return a function that prints once that the proxy has ended, when it has."""
    said = proxy is None

    def look() -> None:
        nonlocal said
        if proxy is not None and not said and proxy.ended():
            said = True
            print(f"no proxy: it ended; see {proxy.log}", flush=True)

    return look
