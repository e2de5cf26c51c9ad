from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from maitre.serving.client import VllmClient
from maitre.serving.fleet.fleet import FleetOptions, LocalFleet
from maitre.serving.fleet.local_server import LaunchOptions
from maitre.serving.proxy.routes import read_routes
from tests.tiny_plans import LIMITS, tiny_plan


@pytest.fixture
def fleet(tmp_path: Path, double_python: Path, launch: LaunchOptions) -> Iterator[LocalFleet]:
    options = FleetOptions(double_python, tmp_path / "adapters", {}, launch, ready_timeout_s=30)
    made = LocalFleet(tmp_path / "fleet", options)
    yield made
    made.stop_all()


def held(fleet: LocalFleet) -> dict[str, set[str]]:
    found = {}
    for name, server in fleet.running().items():
        with VllmClient(server.url) as client:
            found[name] = set(client.adapters())
    return found


def test_a_plan_is_applied_once_changed_and_stopped(
    fleet: LocalFleet, make_adapter: Callable[..., Path]
) -> None:
    for name in "abc":
        make_adapter(name)
    first = tiny_plan({"s": {"a": 1.0, "b": 0.5}, "t": {"b": 0.5}})
    assert fleet.apply(first).complete
    assert held(fleet) == {"s": {"a", "b"}, "t": {"b"}}
    assert fleet.steps_to(first) == (), "a second apply has nothing to do"
    assert fleet.apply(first).done == []

    second = tiny_plan({"s": {"a": 1.0, "c": 1.0, "b": 1.0}})
    assert fleet.apply(second).complete
    assert held(fleet) == {"s": {"a", "b", "c"}}
    assert read_routes(fleet.routes_path).adapters == {a: {"s": 1.0} for a in "abc"}

    before = fleet.running()["s"]
    assert fleet.apply(
        tiny_plan({"s": {"a": 1.0, "c": 1.0, "b": 1.0}}, replace(LIMITS, max_loras=2))
    ).complete
    after = fleet.running()["s"]
    assert after.pid != before.pid
    assert held(fleet) == {"s": {"a", "b", "c"}}, "a restarted server gets its adapters back"
    assert read_routes(fleet.routes_path).servers["s"].url == after.url


def test_missing_files_and_ranks_are_named_and_the_rest_is_served(
    fleet: LocalFleet, make_adapter: Callable[..., Path]
) -> None:
    make_adapter("good")
    make_adapter("large", rank=64)
    done = fleet.apply(tiny_plan({"s": {"good": 1.0, "large": 1.0, "gone": 1.0}}))
    assert not done.complete
    reasons = {f.step.adapter: f.reason for f in done.failed if f.step.action == "load"}
    assert "missing" in reasons["gone"]
    assert "rank 64 is above the server's 8" in reasons["large"]
    assert read_routes(fleet.routes_path).adapters["good"] == {"s": 1.0}
    assert "gone" not in read_routes(fleet.routes_path).models()


def test_a_server_that_does_not_start_is_named_with_its_error(
    fleet: LocalFleet, make_adapter: Callable[..., Path], launch: LaunchOptions
) -> None:
    make_adapter("a")
    fleet.options = replace(fleet.options, model_paths={"tiny": "broken"})
    done = fleet.apply(tiny_plan({"s": {"a": 1.0}}))
    assert "the double was told to fail" in done.failed[0].reason
    assert fleet.running() == {}


def test_a_servers_name_leads_no_log_out_of_its_folder(
    fleet: LocalFleet, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    make_adapter("a")
    assert fleet.apply(tiny_plan({"../../escaped": {"a": 1.0}})).complete
    [log] = tmp_path.rglob("*.log")
    assert log.parent == fleet.folder / "logs"
    assert set(read_routes(fleet.routes_path).servers) == {"../../escaped"}


def test_an_adapter_with_a_byte_order_mark_is_served(
    fleet: LocalFleet, make_adapter: Callable[..., Path]
) -> None:
    file = make_adapter("a") / "adapter_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert fleet.apply(tiny_plan({"s": {"a": 1.0}})).complete
    assert held(fleet) == {"s": {"a"}}


def test_a_dead_server_is_started_again(
    fleet: LocalFleet, make_adapter: Callable[..., Path]
) -> None:
    make_adapter("a")
    wanted = tiny_plan({"s": {"a": 1.0}})
    fleet.apply(wanted)
    fleet.running()["s"].process().stop()
    assert [step.action for step in fleet.steps_to(wanted)] == ["start_server", "load", "route"]
    assert fleet.apply(wanted).complete
    assert held(fleet) == {"s": {"a"}}
