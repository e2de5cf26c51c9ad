"""The load generator and the measurement, against a double that is a process."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest

from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.fleet.local_server import LaunchOptions, LocalServer
from maitre.serving.measure import run as shell
from maitre.serving.measure.load_generator import send_point
from maitre.serving.measure.samples_folder import Measurement
from maitre.twin.fitting.fit import ProfileIdentity
from maitre.twin.fitting.points import Point


@pytest.fixture
def server(tmp_path: Path, double_python: Path, launch: LaunchOptions) -> Iterator[LocalServer]:
    started = LocalServer.start("s", launch, log_folder=tmp_path, python=double_python)
    try:
        started.wait_until_ready(30)
        yield started
    finally:
        started.stop()
    assert not started.alive()


def send(server: LocalServer, point: Point, ranks: dict[str, int]) -> list[dict]:
    async def all_of_it() -> list[dict]:
        async with httpx2.AsyncClient(base_url=server.url) as http:
            return await send_point(http, point, "tiny", ranks, 512)

    return asyncio.run(all_of_it())


def test_samples_hold_send_times_chunks_and_refusals(
    server: LocalServer, make_adapter: Callable[..., Path]
) -> None:
    with VllmClient(server.url) as client:
        client.load_adapter("a", str(make_adapter("a")))
    point = Point("p", "load", "fit", ("a", "gone"), 8, 6, rate_rps=20.0, duration_s=1.0)
    rows = send(server, point, {"a": 8, "gone": 8})
    ok = [row for row in rows if row["outcome"] == "ok"]
    failed = [row for row in rows if row["outcome"] == "failed"]
    assert {row["adapter"] for row in ok} == {"a"}
    assert {row["adapter"] for row in failed} == {"gone"}
    assert "does not exist" in failed[0]["error"]
    for row in ok:
        assert row["sent_s"] >= row["due_s"] - 1e-4
        assert len(row["chunk_s"]) == row["output_tokens"] == row["asked_tokens"]
        assert np.all(np.diff(row["chunk_s"]) >= 0)
        assert row["sent_s"] < row["first_token_s"] <= row["last_token_s"] <= row["end_s"]


def test_a_measurement_survives_the_servers_death(
    tmp_path: Path,
    double_python: Path,
    launch: LaunchOptions,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_DOUBLE_DIES", "12")
    folders = {name: make_adapter(name) for name in "ab"}
    server = LocalServer.start("s", launch, log_folder=tmp_path, python=double_python)
    measurement = Measurement(tmp_path / "samples")
    try:
        server.wait_until_ready(30)
        with VllmClient(server.url) as client:
            assert set(shell.load_adapters(client, folders)) == set(folders)
            found = shell.describe_server(client, 8, 512, 8)
        assert (found.max_loras, found.max_model_len, found.kv_cache_tokens) == (4, 512, 8192)
        options = shell.MeasureOptions({"a": 8, "b": 8}, "tiny", budget_s=60.0)
        identity = ProfileIdentity("cpu/tiny", "tiny", "a CPU", "double")
        measurement.begin(found, {"name": "cpu/tiny"})
        measured = shell.measure(server.url, found, options, identity, measurement)
    finally:
        server.stop()
    assert server.url in measured.died
    kept = measurement.read()
    assert (kept["outcome"] == "ok").sum() >= 5
    assert measured.requests == len(kept)
    with pytest.raises(ValueError, match="holds a measurement already"):
        measurement.begin(found, {})


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, double_python: Path, launch: LaunchOptions
) -> None:
    broken = replace(launch, base_model="broken")
    server = LocalServer.start("s", broken, log_folder=tmp_path, python=double_python)
    with pytest.raises(VllmError, match=r"the double was told to fail.*s\.log"):
        server.wait_until_ready(30)
    server.stop()
