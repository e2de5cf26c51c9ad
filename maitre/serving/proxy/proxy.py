"""A small reverse proxy for one machine: one address for all servers of a route file.

It forwards OpenAI-style requests by their `model` to a server that holds the adapter; the shares
are the probabilities. If that server does not answer, the proxy tries another replica. A tuned soft
prompt's model name becomes `prompt_embeds` for the base model. The proxy reads the route file
again when it changes. On a cluster, a gateway takes its place.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx2
from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from maitre.errors import UserError
from maitre.serving.proxy.connection import while_connected
from maitre.serving.proxy.request_body import (
    BodyLimits,
    ClientGoneError,
    RefusedRequestError,
    read_json,
)
from maitre.serving.proxy.routes import RouteFile, Routes
from maitre.serving.proxy.tuned_prompt import EmbedderOf, TunedPrompts, under_the_prompts_name
from maitre.serving.proxy.upstream import (
    Answer,
    StreamCutError,
    answer_of_a_replica,
    error_document,
    events,
    open_client,
)

REQUESTS = "maitre_proxy_requests"
CUT_STREAMS = "maitre_proxy_cut_streams"
CLIENT_GONE = 499
"""The status that is counted when the client closed its connection first."""


def proxy_app(
    routes_path: Path,
    embedder_of: EmbedderOf,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    choose: random.Random | None = None,
    limits: BodyLimits | None = None,
) -> Starlette:
    """Return the proxy as an ASGI application.

    `embedder_of(base model)` returns the base model's embedder. The proxy calls it at the first
    request for a tuned prompt.
    """
    route_file = RouteFile(routes_path)
    counts = _Counts()
    forward = _Forward(
        route_file,
        TunedPrompts(embedder_of),
        counts,
        choose or random.Random(),
        limits or BodyLimits(),
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with open_client(transport) as forward.http:
            yield

    async def health(_: Request) -> Response:
        """Return the number of servers, and the folder of the routes to identify the checkout."""
        folder = str(routes_path.parent.resolve())
        document = {"servers": len(route_file.current().servers), "folder": folder}
        return JSONResponse(document | ({"problem": p} if (p := route_file.problem) else {}))

    async def models(_: Request) -> Response:
        data = [{"id": name, "object": "model"} for name in route_file.current().models()]
        return JSONResponse({"object": "list", "data": data})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(generate_latest(counts.registry))

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            Route("/v1/completions", forward, methods=["POST"]),
            Route("/v1/chat/completions", forward, methods=["POST"]),
        ],
    )


class _Counts:
    """Requests by model and status; vLLM's own counters merge all adapters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            REQUESTS, "Requests by model and status.", ["model", "status"], registry=self.registry
        )
        self.cut_streams = Counter(
            CUT_STREAMS, "Streams that a server broke off.", ["model"], registry=self.registry
        )


class _Forward:
    """The endpoint that forwards completions and chats; an ASGI application by itself."""

    http: httpx2.AsyncClient

    def __init__(
        self,
        route_file: RouteFile,
        prompts: TunedPrompts,
        counts: _Counts,
        choose: random.Random,
        limits: BodyLimits,
    ) -> None:
        self._route_file, self._prompts, self._counts = route_file, prompts, counts
        self._choose, self._limits = choose, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_json(receive, self._limits)
            model = body.get("model")
            if not isinstance(model, str):
                raise RefusedRequestError(400, "request body: expected a text 'model'")
            routes = self._route_file.current()
            if not routes.servers_for(model):
                raise self._no_server(model)
        except RefusedRequestError as error:
            # The rest of a refused body is not read: the connection cannot be used again.
            headers = {"connection": "close"} if error.status in (408, 413) else None
            refusal = JSONResponse(error_document(error.status, str(error)), error.status, headers)
            await refusal(scope, receive, send)
            return
        except ClientGoneError:
            return
        chat = scope["path"].endswith("chat/completions")
        try:
            await while_connected(receive, self._answer(routes, model, body, send, chat=chat))
        except ClientGoneError:
            self._counts.requests.labels(model, str(CLIENT_GONE)).inc()

    def _no_server(self, model: str) -> RefusedRequestError:
        if self._route_file.problem and not self._route_file.current().servers:
            return RefusedRequestError(503, self._route_file.problem)
        return RefusedRequestError(404, f"model: expected one of /v1/models; got {model!r}")

    async def _answer(
        self, routes: Routes, model: str, body: dict[str, object], send: Send, *, chat: bool
    ) -> None:
        async with self._answer_for(routes, model, body, chat=chat) as answer:
            self._counts.requests.labels(model, str(answer.status)).inc()
            headers = [(b"content-type", answer.content_type.encode("latin-1"))]
            if answer.stream is None:
                headers.append((b"content-length", str(len(answer.body)).encode()))
            start = {"type": "http.response.start", "status": answer.status, "headers": headers}
            await send(start)
            if answer.stream is None:
                await send({"type": "http.response.body", "body": answer.body})
                return
            try:
                async for event in events(answer):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except StreamCutError as error:
                self._counts.cut_streams.labels(model).inc()
                event = f"data: {json.dumps(error_document(502, str(error)))}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
                # Without the last message the server closes the connection: a client that does not
                # read the event still sees that the body is incomplete.
                return
            await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def _answer_for(
        self, routes: Routes, model: str, body: dict[str, object], *, chat: bool
    ) -> AsyncIterator[Answer]:
        prompt = routes.prompts.get(model)
        if prompt is None:
            async with self._send_to_server(
                routes, model, json.dumps(body).encode(), chat=chat
            ) as answer:
                yield answer
            return
        try:
            content = await asyncio.to_thread(
                self._prompts.request_to_base_model, body, prompt, chat=chat
            )
        except UserError as error:
            yield Answer.error(400, f"{model}: {error}")
            return
        async with self._send_to_server(routes, model, content, chat=False) as answer:
            yield under_the_prompts_name(answer, model, chat=chat)

    def _send_to_server(
        self, routes: Routes, model: str, content: bytes, *, chat: bool
    ) -> AbstractAsyncContextManager[Answer]:
        path = "/v1/chat/completions" if chat else "/v1/completions"
        weights = routes.servers_for(model)
        return answer_of_a_replica(self.http, routes, weights, path, content, self._choose)
