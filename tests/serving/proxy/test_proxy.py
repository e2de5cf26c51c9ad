import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from maitre.files import write_text
from maitre.serving.observe import requests_by_model
from maitre.serving.proxy.embeds import PromptEmbedder
from maitre.serving.proxy.proxy import proxy_app
from maitre.serving.proxy.routes import RoutedPrompt, RoutedServer, Routes
from maitre.tuning.export import export_prompt


class Letters:
    """A tokenizer: one token a letter."""

    def __call__(self, text: str, add_special_tokens: bool = True):
        return type("Encoded", (), {"input_ids": [ord(letter) % 32 for letter in text]})

    def apply_chat_template(self, messages, tokenize, add_generation_prompt) -> str:
        return "".join(message["content"] for message in messages)


EMBEDDINGS = np.arange(32 * 4, dtype=np.float32).reshape(32, 4)
SERVERS = {
    "s": RoutedServer("http://s:1", "base"),
    "t": RoutedServer("http://t:1", "base"),
}


class Servers:
    """What two servers answer; those in `down` cannot be reached, those in `failing` say 500."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.failing: set[str] = set()
        self.asked: list[tuple[str, dict]] = []

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        name, body = request.url.host, json.loads(request.content)
        self.asked.append((name, body))
        if name in self.down:
            raise httpx2.ConnectError("connection refused")
        if name in self.failing:
            return httpx2.Response(500, json={"error": {"message": "engine is dead"}})
        choice = {"index": 0, "text": f"from {name}", "finish_reason": "stop"}
        return httpx2.Response(200, json={"model": body["model"], "choices": [choice]})


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    prompt = np.full((2, 4), -1.0, np.float32)
    export_prompt(
        prompt, tmp_path / "tuned", position="suffix", base_model="base", base_model_hash="x"
    )
    found = Routes(
        SERVERS,
        {"a": {"s": 1.0}, "both": {"s": 0.5, "t": 0.5}},
        {"tuned": RoutedPrompt(str(tmp_path / "tuned"), "base")},
    )
    path = tmp_path / "routes.json"
    write_text(path, found.to_json())
    return path


@pytest.fixture
def proxy(servers: Servers, routes: Path) -> Iterator[TestClient]:
    app = proxy_app(
        routes,
        lambda base: PromptEmbedder(EMBEDDINGS, Letters()),
        transport=httpx2.MockTransport(servers.answer),
    )
    with TestClient(app) as client:
        yield client


def ask(proxy: TestClient, model: str, **body):
    return proxy.post("/v1/completions", json={"model": model, "prompt": "ab", **body})


def test_an_adapter_goes_to_its_server(proxy: TestClient, servers: Servers) -> None:
    assert ask(proxy, "a").json()["choices"][0]["text"] == "from s"
    assert servers.asked[0][1]["prompt"] == "ab"


@pytest.mark.parametrize("trouble", ["down", "failing"])
def test_another_replica_answers_for_one_in_trouble(
    proxy: TestClient, servers: Servers, trouble: str
) -> None:
    getattr(servers, trouble).add("s")
    for _ in range(8):
        assert ask(proxy, "both").json()["choices"][0]["text"] == "from t"
    answer = ask(proxy, "a")
    assert answer.status_code in (500, 502)
    if trouble == "down":
        assert "http://s:1" in answer.json()["error"]["message"]


def test_shares_divide_the_requests(proxy: TestClient, servers: Servers) -> None:
    for _ in range(200):
        ask(proxy, "both")
    assert 60 < sum(name == "s" for name, _ in servers.asked) < 140


def test_a_tuned_prompt_becomes_embeddings_after_the_text(
    proxy: TestClient, servers: Servers
) -> None:
    answer = ask(proxy, "tuned", max_tokens=3).json()
    assert answer["model"] == "tuned"
    body = servers.asked[0][1]
    assert body["model"] == "base"
    assert body["max_tokens"] == 3
    assert "prompt" not in body
    sent = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
    assert np.array_equal(sent[:2], EMBEDDINGS[[ord("a") % 32, ord("b") % 32]])
    assert np.array_equal(sent[2:], np.full((2, 4), -1.0))


def test_a_chat_with_a_tuned_prompt_is_answered_as_a_chat(proxy: TestClient) -> None:
    body = {"model": "tuned", "messages": [{"role": "user", "content": "ab"}]}
    answer = proxy.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"].startswith("from ")


def test_changed_routes_hold_at_once(proxy: TestClient, routes: Path) -> None:
    assert ask(proxy, "new").status_code == 404
    write_text(routes, Routes(SERVERS, {"new": {"t": 1.0}}).to_json())
    assert ask(proxy, "new").json()["choices"][0]["text"] == "from t"
    assert {m["id"] for m in proxy.get("/v1/models").json()["data"]} == {"base", "new"}


def test_requests_are_counted_by_model(proxy: TestClient) -> None:
    for model in ("a", "a", "both"):
        ask(proxy, model)
    assert requests_by_model(proxy.get("/metrics").text) == {"a": 2, "both": 1}


@pytest.mark.parametrize(
    "messages",
    [
        "ab",
        [],
        [1],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": 1, "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ],
)
def test_a_chat_that_is_none_is_refused(proxy: TestClient, messages: object) -> None:
    body = {"model": "tuned", "messages": messages}
    answer = proxy.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "messages" in answer.json()["error"]["message"]


def test_a_chat_in_parts_is_its_text(proxy: TestClient, servers: Servers) -> None:
    for content in ("ab", [{"type": "text", "text": "ab"}]):
        messages = [{"role": "user", "content": content}]
        body = {"model": "tuned", "messages": messages}
        assert proxy.post("/v1/chat/completions", json=body).status_code == 200
    assert servers.asked[0][1] == servers.asked[1][1]


def test_bad_requests_are_refused_in_one_line(proxy: TestClient) -> None:
    assert proxy.post("/v1/completions", content=b"no json").status_code == 400
    assert proxy.post("/v1/completions", json={"prompt": "x"}).status_code == 400
    answer = ask(proxy, "tuned", stream=True)
    assert answer.status_code == 400
    assert "not streamed" in answer.json()["error"]["message"]
