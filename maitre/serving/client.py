"""A client for servers that speak vLLM's OpenAI-compatible API."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

from maitre.errors import UserError
from maitre.serving.errors import VllmError
from maitre.serving.metrics import ServerMetrics, parse_metrics

ANSWER_TIMEOUT_S = 120.0
MESSAGE_CHARACTERS = 300


@dataclass(frozen=True)
class Completion:
    """A completion: its text, why it ended, and its token counts."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int


class VllmClient:
    """A client of the server at `url` (`http://host:port`). Close it, or use it in a `with`.

    Every method raises `VllmError` when the server does not answer or refuses the request; the
    message is one line and names the address. `transport` replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(
                f"server address: expected one that starts with http:// or https://; got {url!r}"
            )
        try:
            self._http = httpx2.Client(base_url=self.url, timeout=timeout_s, transport=transport)
        except httpx2.InvalidURL as error:
            raise UserError(f"server address: expected http://host:port; got {url!r}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def healthy(self) -> bool:
        """Return whether the server answers and reports that its engine is alive."""
        try:
            return self._http.get("/health", timeout=5.0).status_code == 200
        except httpx2.HTTPError:
            return False

    def version(self) -> str:
        """Return the server's version of vLLM."""
        with self._as_vllm_error("/version"):
            return str(self._json("GET", "/version").get("version", ""))

    def models(self) -> tuple[str, ...]:
        """Return the model names that the server accepts: its base model's and its adapters'."""
        return tuple(str(card["id"]) for card in self._model_cards())

    def adapters(self) -> dict[str, str]:
        """Return the loaded adapters and the folder of each."""
        cards = self._model_cards()
        return {str(c["id"]): str(c.get("root") or "") for c in cards if c.get("parent")}

    def max_model_len(self) -> int | None:
        """Return the longest sequence in tokens; None where the server does not report it."""
        cards = self._model_cards()
        with self._as_vllm_error("/v1/models"):
            lengths = [int(card["max_model_len"]) for card in cards if card.get("max_model_len")]
        return lengths[0] if lengths else None

    def load_adapter(self, name: str, path: str) -> None:
        """Load an adapter from a folder that the server can read.

        The server must run with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`.
        """
        self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter; the server refuses requests for it from then on."""
        self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def metrics(self) -> ServerMetrics:
        """Return the server's current metrics."""
        text = self._send("GET", "/metrics").text
        try:
            return parse_metrics(text)
        except ValueError as error:
            raise VllmError(
                f"{self.url}/metrics: expected Prometheus text; got {_one_line(str(error))}"
            ) from error

    def complete(
        self,
        model: str,
        prompt: str | list[int] | None,
        *,
        max_tokens: int = 16,
        temperature: float = 0.0,
        prompt_embeds: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Complete a prompt, given as text, as token ids, or as `prompt_embeds` (`embeds.py`).

        `more` holds further parameters of vLLM (`ignore_eos`, ...).
        """
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            **(more or {}),
        }
        if prompt is not None:
            body["prompt"] = prompt
        if prompt_embeds is not None:
            body["prompt_embeds"] = prompt_embeds
        answer = self._json("POST", "/v1/completions", body)
        with self._as_vllm_error("/v1/completions"):
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return Completion(
                text=str(choice["text"]),
                finish_reason=str(choice.get("finish_reason") or ""),
                input_tokens=int(usage.get("prompt_tokens") or 0),
                output_tokens=int(usage.get("completion_tokens") or 0),
            )

    def _model_cards(self) -> list[dict[str, Any]]:
        with self._as_vllm_error("/v1/models"):
            cards = self._json("GET", "/v1/models")["data"]
            if not all(isinstance(card, dict) and card.get("id") for card in cards):
                raise TypeError("a model without an id")
            return list(cards)

    @contextmanager
    def _as_vllm_error(self, path: str) -> Iterator[None]:
        """Raise `VllmError` when the JSON document is not of the kind that vLLM sends."""
        try:
            yield
        except VllmError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {_one_line(str(error))}"
            raise VllmError(
                f"{self.url}{path}: expected vLLM's JSON; got another document ({reason})"
            ) from error

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._send(method, path, body)
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise VllmError(
                f"{self.url}{path}: expected JSON; got {_one_line(answer.text)[:80]!r}; "
                "is this the address of a vLLM server?"
            ) from None

    def _send(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx2.TimeoutException:
            raise VllmError(f"{self.url}{path} did not answer in time") from None
        except httpx2.HTTPError as error:
            raise VllmError(f"no server at {self.url}: {_one_line(str(error))}") from None
        if answer.status_code >= 400:
            raise VllmError(
                f"{self.url}{path} refused ({answer.status_code}): {refusal(answer.text)}"
            )
        return answer


def refusal(text: str) -> str:
    """Return the message of an error response, on one line."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _one_line(text)
    if isinstance(document, dict):
        inner = document.get("error", document)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail") or inner
        return _one_line(str(inner))
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MESSAGE_CHARACTERS]
