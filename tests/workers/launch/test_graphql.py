"""What is asked of Dagster's GraphQL interface is what its schema knows."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate
from graphql.utilities import coerce_input_value

from maitre.workers.launch import graphql

SCHEMA = create_schema().graphql_schema


@pytest.mark.parametrize("query", ["_LAUNCH", "_TERMINATE"])
def test_the_queries_are_valid(query: str) -> None:
    assert validate(SCHEMA, parse(getattr(graphql, query))) == []


def test_the_parameters_of_a_launch_are_those_of_the_schema(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datetime import UTC, datetime

    from maitre.requests.request import RequestState, TuningRequest

    asked: list[dict] = []

    def ask(self: object, query: str, variables: dict) -> dict:
        asked.append(variables)
        return {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "r"}}}

    monkeypatch.setattr(graphql.DagsterClient, "_call", ask)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    request = TuningRequest("id", "task", "tiny", "t", now, now, RequestState.STARTING)
    assert graphql.DagsterClient("http://nowhere").launch(request, ["v", "w"], True) == "r"
    problems: list[str] = []
    coerce_input_value(
        asked[0]["parameters"],
        SCHEMA.get_type("ExecutionParams"),
        on_error=lambda path, value, error: problems.append(f"{path} {error}"),
    )
    assert problems == []


class Webserver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": {"terminateRun": {"__typename": "TerminateRunSuccess"}}}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webserver() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Webserver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_no_proxy_of_the_environment_stands_between(
    webserver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert graphql.DagsterClient(webserver).terminate("run")
