import httpx2
import pytest

from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError


def client(answer) -> VllmClient:
    return VllmClient("http://server:8000/", transport=httpx2.MockTransport(answer))


def test_adapters_are_told_from_the_base_model() -> None:
    data = [{"id": "base", "parent": None}, {"id": "a", "parent": "base", "root": "/x/a"}]
    found = client(lambda request: httpx2.Response(200, json={"data": data}))
    assert found.models() == ("base", "a")
    assert found.adapters() == {"a": "/x/a"}


def test_a_refusal_is_one_line_with_the_address() -> None:
    document = {"error": {"message": "rank 64 is\ngreater than 16"}}
    found = client(lambda request: httpx2.Response(400, json=document))
    with pytest.raises(VllmError) as raised:
        found.load_adapter("a", "/x/a")
    assert "http://server:8000" in str(raised.value)
    assert "rank 64 is greater than 16" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_not_there_is_one_line_with_the_address() -> None:
    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    assert not client(gone).healthy()
    with pytest.raises(VllmError, match="no server at http://server:8000"):
        client(gone).models()


def test_an_address_needs_a_scheme() -> None:
    with pytest.raises(ValueError, match="http://"):
        VllmClient("localhost:8000")


def test_no_json_is_no_vllm() -> None:
    with pytest.raises(VllmError, match="a vLLM server"):
        client(lambda request: httpx2.Response(200, text="hello")).models()


@pytest.mark.parametrize(
    "document", ["[]", "1", "null", '{"data": 1}', '{"data": [1]}', '{"data": [{}]}', "[" * 9999,
                 '{"data": [{"id": "a", "max_model_len": "x"}]}'],
)  # fmt: skip
def test_another_document_is_one_error(document: str) -> None:
    found = client(lambda request: httpx2.Response(200, text=document))
    for method in (found.max_model_len, lambda: found.complete("a", "b")):
        with pytest.raises(VllmError, match="http://server:8000"):
            method()
