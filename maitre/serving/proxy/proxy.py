"""A small reverse proxy for one machine: one address for all servers of a route file.

It forwards OpenAI-style requests by their `model` to a server that holds the adapter; the shares
are the probabilities. If that server does not answer, the proxy tries another replica. A tuned soft
prompt's model name becomes `prompt_embeds` for the base model. The proxy reads the route file
again when it changes. On a cluster, a gateway takes its place.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from maitre.errors import UserError
from maitre.serving.proxy.embeds import PromptEmbedder, read_tuned_prompt
from maitre.serving.proxy.routes import RoutedPrompt, Routes, read_routes

CONNECT_TIMEOUT_S = 5.0
REQUESTS = "maitre_proxy_requests"
RETRIED = frozenset({500, 502, 503, 504})
EmbedderOf = Callable[[str], PromptEmbedder]


def proxy_app(
    routes_path: Path,
    embedder_of: EmbedderOf,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    choose: random.Random | None = None,
) -> Starlette:
    """Return the proxy as an ASGI application.

    `embedder_of(base model)` returns the base model's embedder. The proxy calls it at the first
    request for a tuned prompt.
    """
    proxy = _Proxy(routes_path, embedder_of, choose or random.Random())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await proxy.open(transport)
        yield
        await proxy.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/health", proxy.health),
            Route("/metrics", proxy.metrics),
            Route("/v1/models", proxy.models),
            Route("/v1/completions", proxy.forward, methods=["POST"]),
            Route("/v1/chat/completions", proxy.forward, methods=["POST"]),
        ],
    )


class _Proxy:
    def __init__(self, path: Path, embedder_of: EmbedderOf, choose: random.Random) -> None:
        self._path, self._embedder_of, self._choose = path, embedder_of, choose
        self._stamp: tuple[int, int] | None = None
        self._routes = Routes()
        self._embedders: dict[str, PromptEmbedder] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._http: httpx2.AsyncClient

    async def open(self, transport: httpx2.AsyncBaseTransport | None) -> None:
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
        limits = httpx2.Limits(max_connections=None)
        self._http = httpx2.AsyncClient(timeout=timeout, limits=limits, transport=transport)

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self, _: Request) -> Response:
        """Return the number of servers, and the folder of the routes to identify the checkout."""
        folder = str(self._path.parent.resolve())
        return JSONResponse({"servers": len(self._current().servers), "folder": folder})

    async def models(self, _: Request) -> Response:
        data = [{"id": name, "object": "model"} for name in self._current().models()]
        return JSONResponse({"object": "list", "data": data})

    async def metrics(self, _: Request) -> Response:
        """Return request counts by model and status; vLLM's own counters merge all adapters."""
        lines = [f"# TYPE {REQUESTS} counter"]
        for (model, status), count in sorted(self._counts.items()):
            quoted = json.dumps(model, ensure_ascii=False)
            lines.append(f'{REQUESTS}_total{{model={quoted},status="{status}"}} {count}')
        return PlainTextResponse("\n".join(lines) + "\n")

    async def forward(self, request: Request) -> Response:
        try:
            body = await request.json()
            model = body["model"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            return _refuse(400, "request body: expected a JSON object with 'model'")
        routes = self._current()
        weights = routes.servers_for(model) if isinstance(model, str) else {}
        if not weights:
            return _refuse(404, f"no server holds the model {model!r}")
        path = request.url.path
        if model in routes.prompts:
            try:
                body = await asyncio.to_thread(self._with_prompt, body, routes.prompts[model], path)
            except UserError as error:
                return _refuse(400, f"{model}: {error}")
            path = "/v1/completions"
        answer = await self._try_each(routes, weights, path, body)
        self._counts[model, answer.status_code] += 1
        if model in routes.prompts and answer.status_code == 200:
            return await _renamed(answer, model, chat=request.url.path.endswith("chat/completions"))
        return _passed_on(answer)

    async def _try_each(
        self, routes: Routes, weights: Mapping[str, float], path: str, body: Mapping[str, Any]
    ) -> httpx2.Response:
        """Return the response of the first replica that gives one; the shares draw the order."""
        failed = httpx2.Response(502, json=_error(502, "no server"))
        for name in self._order(weights):
            url = routes.servers[name].url
            try:
                made = self._http.build_request("POST", f"{url}{path}", json=dict(body))
                answer = await self._http.send(made, stream=True)
            except httpx2.HTTPError as error:
                reason = str(error) or type(error).__name__
                failed = httpx2.Response(502, json=_error(502, f"{name} at {url}: {reason}"))
                continue
            if answer.status_code not in RETRIED:
                return answer
            await answer.aread()
            failed = answer
        return failed

    def _order(self, weights: Mapping[str, float]) -> list[str]:
        left, order = dict(weights), []
        while left:
            names = list(left)
            shares = [max(left[name], 1e-9) for name in names]
            order.append(self._choose.choices(names, shares)[0])
            del left[order[-1]]
        return order

    def _with_prompt(
        self, body: Mapping[str, Any], prompt: RoutedPrompt, path: str
    ) -> dict[str, Any]:
        """Return the request to the base model, with the tuned prompt in its embeddings."""
        chat = path.endswith("chat/completions")
        asked = body.get("messages") if chat else body.get("prompt")
        if not (isinstance(asked, list) if chat else isinstance(asked, str)) or not asked:
            raise UserError(
                "'messages': expected a list of messages" if chat else "'prompt': expected one text"
            )
        if body.get("stream"):
            raise UserError("'stream': expected false; a tuned prompt's answers are not streamed")
        base = prompt.base_model
        if base not in self._embedders:
            self._embedders[base] = self._embedder_of(base)
        embeds = self._embedders[base].embed(read_tuned_prompt(Path(prompt.folder)), asked)
        dropped = ("prompt", "messages", "model")
        kept = {name: value for name, value in body.items() if name not in dropped}
        return {**kept, "model": base, "prompt_embeds": embeds}

    def _current(self) -> Routes:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return Routes()
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            self._routes, self._stamp = read_routes(self._path), stamp
        return self._routes


def _passed_on(answer: httpx2.Response) -> Response:
    kind = answer.headers.get("content-type", "application/json")
    if answer.is_closed or not answer.headers.get("content-type", "").startswith("text/event"):
        return StreamingResponse(_bytes(answer), answer.status_code, media_type=kind)
    return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type=kind)


async def _bytes(answer: httpx2.Response) -> AsyncIterator[bytes]:
    yield await answer.aread()


async def _renamed(answer: httpx2.Response, model: str, *, chat: bool) -> Response:
    """Return a completion under the tuned prompt's name; for a chat, as a chat completion."""
    document = {**json.loads(await answer.aread()), "model": model}
    if chat:
        document["object"] = "chat.completion"
        document["choices"] = [
            {
                "index": choice.get("index", place),
                "finish_reason": choice.get("finish_reason"),
                "message": {"role": "assistant", "content": choice.get("text", "")},
            }
            for place, choice in enumerate(document["choices"])
        ]
    return JSONResponse(document)


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "proxy", "code": status}}


def _refuse(status: int, message: str) -> Response:
    return JSONResponse(_error(status, message), status_code=status)
