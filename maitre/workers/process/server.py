"""The worker's process: `python -m maitre.workers.process.server`.

An HTTP thread answers from the start. The main thread loads the base model and the Dagster job, and
then executes claimed runs. SIGTERM drains the worker.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from maitre.errors import UserError
from maitre.settings import Settings
from maitre.workers.checkpoints import CheckpointStore
from maitre.workers.leases import LeaseStore
from maitre.workers.pool.protocol import Claim
from maitre.workers.pool.registry import WorkerRegistry
from maitre.workers.pool.token import read_token
from maitre.workers.process.executor import Executor
from maitre.workers.process.guard import RequestGuard
from maitre.workers.process.header_timeout import HeaderTimeoutProtocol
from maitre.workers.process.worker import BusyError, NoSuchClaimError, Worker

OPEN_PATHS = ("/healthz", "/readyz")
"""The probes, which need no token."""
_STREAM_EVERY_S = 0.25
# A run's id becomes a part of its checkpoint's file name.
_ID = r"^[A-Za-z0-9_-]{1,64}$"
_MAX_COUNT = 2**31 - 1


class ClaimBody(BaseModel):
    """A claim in a request's body."""

    attempt: str = Field(pattern=_ID)
    run_id: str = Field(pattern=_ID)
    number: int = Field(1, ge=1, le=_MAX_COUNT)
    resume: bool = False
    rank: int = Field(0, ge=0, le=_MAX_COUNT)
    size: int = Field(1, ge=1, le=_MAX_COUNT)


def app_for(worker: Worker, token: str) -> FastAPI:
    """Return the worker's HTTP interface; `RequestGuard` checks the token."""

    app = FastAPI(title="Maitre warm worker", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, token=token, open_paths=OPEN_PATHS)
    app.add_exception_handler(RequestValidationError, _explain_invalid)

    @app.get("/healthz")
    def alive() -> PlainTextResponse:
        return PlainTextResponse("alive")

    @app.get("/readyz")
    def ready() -> PlainTextResponse:
        state = worker.view().state
        if state in ("loading", "draining"):
            raise HTTPException(503, state)
        return PlainTextResponse(state)

    @app.get("/status")
    def status() -> dict[str, Any]:
        return worker.view().to_json()

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/claims", status_code=202)
    def claim(body: ClaimBody) -> dict[str, str]:
        try:
            worker.claim(Claim(**body.model_dump()))
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        return {"attempt": body.attempt}

    @app.get("/claims/{attempt}/progress")
    def progress(attempt: str) -> StreamingResponse:
        return StreamingResponse(_stream(worker, attempt), media_type="application/x-ndjson")

    @app.post("/claims/{attempt}/cancel", status_code=202)
    def cancel(attempt: str) -> dict[str, str]:
        return _for_claim(worker.cancel, attempt)

    @app.post("/claims/{attempt}/preempt", status_code=202)
    def preempt(attempt: str) -> dict[str, str]:
        return _for_claim(worker.preempt, attempt)

    @app.post("/drain", status_code=202)
    def drain(preempt: bool = True) -> dict[str, str]:
        worker.drain(preempt)
        return {"worker": worker.name}

    return app


def _explain_invalid(_: Request, error: Exception) -> PlainTextResponse:
    """Answer 422 with the places and reasons, without the values: not all of them are JSON."""
    assert isinstance(error, RequestValidationError)
    reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    text = "; ".join(reasons).encode(errors="replace")
    return PlainTextResponse(text, status_code=422)


def _for_claim(action: Callable[[str], None], attempt: str) -> dict[str, str]:
    """Do something with the worker's claim; answer 404 when it does not hold that claim."""
    try:
        action(attempt)
    except NoSuchClaimError as error:
        raise HTTPException(404, str(error)) from None
    return {"attempt": attempt}


async def _stream(worker: Worker, attempt: str) -> AsyncIterator[str]:
    """Yield one JSON line for each change of a claim's progress, until the claim ends."""
    import asyncio

    sent = None
    while True:
        claim = worker.view().claim
        if claim is None or claim.attempt != attempt:
            return
        if claim != sent:
            sent = claim
            yield json.dumps(vars(claim)) + "\n"
        await asyncio.sleep(_STREAM_EVERY_S)


def main(
    name: Annotated[str, typer.Option(help="The worker's name.")] = socket.gethostname(),
    base_model: Annotated[
        str, typer.Option(help="The base model that the settings must name.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    module: Annotated[str, typer.Option(help="Module of the code location.")] = "pipelines.tuning",
    job: Annotated[str, typer.Option(help="The job to load before the first run.")] = "tune",
    register: Annotated[bool, typer.Option(help="Register the worker in the data home.")] = True,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Wait for SIGTERM after draining: Kubernetes would restart the container.",
        ),
    ] = False,
) -> None:
    """Load one base model and take tuning runs, one at a time, until drained."""
    log = _own_log(name)
    started_s = time.monotonic()
    try:
        settings = Settings.read()
        _check_base_model(settings, base_model)
        token = read_token(settings)
    except UserError as error:
        typer.echo(f"worker {name}: {error}", err=True)
        raise typer.Exit(2) from None
    base_model = settings.base_model_name
    checkpoints = CheckpointStore.of(settings)
    executor = Executor(module, job, settings)
    worker = Worker(
        name,
        base_model,
        executor,
        LeaseStore(settings.request_queue_url),
        checkpoints,
        log,
        executor.help,
        executor.release_slots,
    )
    listener = socket.create_server((host, port))
    url = f"http://{host}:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(
            app_for(worker, token),
            http=HeaderTimeoutProtocol,
            log_config=None,
            access_log=False,
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
    ).start()
    terminated = threading.Event()
    loaded = threading.Event()

    def terminate(*_: object) -> None:
        terminated.set()
        threading.Thread(target=worker.drain).start()
        if not loaded.is_set():
            # No run is lost. Loading may take longer than a pod has to end.
            raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminate)
    registry = WorkerRegistry(settings.home)
    if register:
        registry.add(name, url, base_model, os.getpid())
    log.info("worker %s at %s loads %s", name, url, settings.base_model)
    try:
        try:
            load_s = executor.load()
        except Exception:
            if register:
                registry.note_failure(base_model)
            raise
        load_s["total"] = time.monotonic() - started_s
        loaded.set()
        worker.ready(load_s)
        log.info("ready after %s", {stage: round(s, 2) for stage, s in load_s.items()})
        executor.serve(worker)
        if stay:
            terminated.wait()
    finally:
        if register:
            registry.remove(name)
        log.info("worker %s ends", name)


def _check_base_model(settings: Settings, base_model: str) -> None:
    """Raise `UserError` for another base model than that of the settings, which a worker holds."""
    if base_model not in ("", settings.base_model_name):
        raise UserError(
            f"--base-model: expected the base model of the settings, {settings.base_model_name}; "
            f"got {base_model}; set MAITRE_BASE_MODEL (or base_model in maitre.yaml)"
        )


def _own_log(name: str) -> logging.Logger:
    """Return a logger on a duplicate of stderr: Dagster redirects stderr while a step runs."""
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger(f"maitre.worker.{name}")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    for library in ("uvicorn.error",):
        logging.getLogger(library).addHandler(handler)
    with suppress(ValueError):
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return log


if __name__ == "__main__":
    typer.run(main)
