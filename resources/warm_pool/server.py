"""The worker's process: `python -m resources.warm_pool.server`.

An HTTP thread answers from the start; the main thread loads the base model and the Dagster job and
then runs what is claimed. SIGTERM drains.
"""

import ctypes
import gc
import hmac
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from resources.settings import Settings
from resources.warm_pool.checkpoints import CheckpointStore
from resources.warm_pool.placements import PlacementStore
from resources.warm_pool.registry import WorkerRegistry, read_token
from resources.warm_pool.wire import Claim
from resources.warm_pool.worker import BusyError, NoSuchClaimError, Worker

_STREAM_EVERY_S = 0.25


class ClaimBody(BaseModel):
    """A claim as it comes over the wire."""

    attempt: str
    run_id: str
    number: int = 1
    resume: bool = False
    rank: int = 0
    size: int = 1


def app_for(worker: Worker, token: str) -> FastAPI:
    """The worker's HTTP interface. Probes are open; everything else needs the token."""

    def authenticated(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed")

    app = FastAPI(title="Maitre warm worker", docs_url=None, redoc_url=None, openapi_url=None)
    guarded = [Depends(authenticated)]

    @app.get("/healthz")
    def alive() -> PlainTextResponse:
        return PlainTextResponse("alive")

    @app.get("/readyz")
    def ready() -> PlainTextResponse:
        state = worker.view().state
        if state in ("loading", "draining"):
            raise HTTPException(503, state)
        return PlainTextResponse(state)

    @app.get("/status", dependencies=guarded)
    def status() -> dict[str, Any]:
        return worker.view().to_json()

    @app.get("/metrics", dependencies=guarded)
    def metrics() -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/claims", status_code=202, dependencies=guarded)
    def claim(body: ClaimBody) -> dict[str, str]:
        try:
            worker.claim(Claim(**body.model_dump()))
        except BusyError as error:
            raise HTTPException(409, str(error)) from None
        return {"attempt": body.attempt}

    @app.get("/claims/{attempt}/progress", dependencies=guarded)
    def progress(attempt: str) -> StreamingResponse:
        return StreamingResponse(_stream(worker, attempt), media_type="application/x-ndjson")

    @app.post("/claims/{attempt}/cancel", status_code=202, dependencies=guarded)
    def cancel(attempt: str) -> dict[str, str]:
        return _asked(worker.cancel, attempt)

    @app.post("/claims/{attempt}/preempt", status_code=202, dependencies=guarded)
    def preempt(attempt: str) -> dict[str, str]:
        return _asked(worker.preempt, attempt)

    @app.post("/drain", status_code=202, dependencies=guarded)
    def drain(preempt: bool = True) -> dict[str, str]:
        worker.drain(preempt)
        return {"worker": worker.name}

    return app


def _asked(ask: Callable[[str], None], attempt: str) -> dict[str, str]:
    try:
        ask(attempt)
    except NoSuchClaimError as error:
        raise HTTPException(404, str(error)) from None
    return {"attempt": attempt}


async def _stream(worker: Worker, attempt: str) -> AsyncIterator[str]:
    """One JSON line for each change of a claim's progress, until the worker is done with it."""
    import asyncio

    told = None
    while True:
        claim = worker.view().claim
        if claim is None or claim.attempt != attempt:
            return
        if claim != told:
            told = claim
            yield json.dumps(vars(claim)) + "\n"
        await asyncio.sleep(_STREAM_EVERY_S)


def main(
    name: Annotated[str, typer.Option(help="The worker's own name.")] = socket.gethostname(),
    base_model: Annotated[str, typer.Option(help="Name of its pool.")] = "",
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to; 0 takes a free one.")] = 0,
    module: Annotated[str, typer.Option(help="The code location.")] = "pipelines.tuning",
    job: Annotated[str, typer.Option(help="The job to load ahead.")] = "tune",
    register: Annotated[bool, typer.Option(help="Tell the data home where it is.")] = True,
    stay: Annotated[
        bool, typer.Option("--stay", help="Once drained, wait for SIGTERM: a pod would restart.")
    ] = False,
) -> None:
    """Load one base model and take tuning runs, one at a time, until drained."""
    log = _own_log(name)
    started_s = time.monotonic()
    settings = Settings.read()
    base_model = base_model or settings.pool
    checkpoints = CheckpointStore(f"{settings.home}/checkpoints", settings.scratch / "checkpoints")
    executor = _Executor(module, job, settings)
    worker = Worker(
        name,
        base_model,
        executor,
        PlacementStore(settings.request_queue_url),
        checkpoints,
        log,
        executor.help,
    )
    listener = socket.create_server((host, port))
    url = f"http://{host}:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(
            app_for(worker, read_token(str(settings.scratch))), log_config=None, access_log=False
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
    ).start()
    terminated = threading.Event()

    def terminate(*_: object) -> None:
        terminated.set()
        threading.Thread(target=worker.drain).start()

    signal.signal(signal.SIGTERM, terminate)
    registry = WorkerRegistry(settings.home)
    if register:
        registry.add(name, url, base_model, os.getpid())
    log.info("%s at %s loads %s", name, url, settings.base_model)
    try:
        try:
            load_s = executor.load()
        except Exception:
            if register:
                registry.note_failure(base_model)
            raise
        load_s["total"] = time.monotonic() - started_s
        worker.ready(load_s)
        log.info("ready after %s", {stage: round(s, 2) for stage, s in load_s.items()})
        executor.serve(worker)
        if stay:
            terminated.wait()
    finally:
        if register:
            registry.remove(name)
        log.info("%s ends", name)


class _Executor:
    """Loads what a run needs, and runs it. Heavy imports happen in `load`, timed by stage."""

    def __init__(self, module: str, job: str, settings: Settings) -> None:
        self._module = module
        self._job = job
        self._settings = settings
        self._instance: Any = None

    def load(self) -> dict[str, float]:
        """Seconds of each stage."""
        load_s: dict[str, float] = {}
        with _timed(load_s, "imports"):
            import mlflow.pyfunc  # noqa: F401

            import maitre.tuning.tune  # noqa: F401
            from resources.language_model import LanguageModel
            from resources.warm_pool import dagster_internals, group  # noqa: F401

            dagster_internals.keep_own_sigterm()
        with _timed(load_s, "instance"):
            from dagster import DagsterInstance

            self._instance = DagsterInstance.get()
        with _timed(load_s, "job"):
            dagster_internals.load_job(self._module, self._job)
        with _timed(load_s, "model"):
            LanguageModel(path_or_id=self._settings.base_model).load()
        with _timed(load_s, "warm-up"):
            location = importlib.import_module(self._module)
            if hasattr(location, "warm_up"):
                location.warm_up()
        # What is loaded stays: the collection after each run need not go through it again.
        gc.collect()
        gc.freeze()
        return load_s

    def serve(self, worker: Worker) -> None:
        """Let the worker run claims, with interrupts captured rather than deadly."""
        from resources.warm_pool.dagster_internals import capture_interrupts

        with capture_interrupts():
            worker.serve()

    def __call__(self, run_id: str, *, resume: bool, before_write: Callable[[], None]) -> None:
        from resources.warm_pool.dagster_internals import execute_run

        try:
            execute_run(self._instance, run_id, resume=resume, before_write=before_write)
        finally:
            _give_memory_back()

    def help(self, claim: Claim, *, is_leaving: Callable[[], bool]) -> None:
        """Tune along with the worker that executes the claim's run."""
        from resources.language_model import LanguageModel
        from resources.warm_pool.group import follow

        settings = self._settings
        model = LanguageModel(path_or_id=settings.base_model)
        placements = PlacementStore(settings.request_queue_url)
        try:
            follow(claim, placements, model.load, settings.tasks, is_leaving)
        finally:
            _give_memory_back()


def _give_memory_back() -> None:
    """Free what a run has left in cycles, and let the C library return what is free.

    A run allocates and frees arrays of many sizes; glibc keeps their pages otherwise.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def _timed(load_s: dict[str, float], stage: str) -> Any:
    started_s = time.monotonic()
    yield
    load_s[stage] = time.monotonic() - started_s


def _own_log(name: str) -> logging.Logger:
    """A log on a duplicate of stderr: Dagster redirects the process's own while a step runs."""
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
