"""What is served, said as a plan."""

from dataclasses import replace

from maitre.placement.diff import same_servers
from maitre.serving.proxy.routes import RoutedServer, Routes
from maitre.serving.served import served_plan
from tests.tiny_plans import LIMITS

SERVER = RoutedServer("http://127.0.0.1:1", "tiny")
ROUTES = Routes({"s": SERVER, "t": SERVER, "idle": SERVER}, {"a": {"s": 3.0, "t": 1.0}})


def test_weights_become_shares_and_idle_servers_are_left_out() -> None:
    plan = served_plan(ROUTES, dict.fromkeys("st", LIMITS) | {"idle": LIMITS}, "cpu/tiny")
    assert plan.servers_of() == {"a": {"s": 0.75, "t": 0.25}}


def test_a_server_of_unknown_options_is_left_out() -> None:
    assert served_plan(ROUTES, {"s": LIMITS}, "cpu/tiny").servers_of() == {"a": {"s": 1.0}}
    assert not served_plan(ROUTES, {}, "cpu/tiny").servers


def test_shares_adapters_and_options_make_a_difference_rounding_does_not() -> None:
    configs = dict.fromkeys("st", LIMITS)
    plan = served_plan(ROUTES, configs, "cpu/tiny")
    rounded = replace(ROUTES, adapters={"a": {"s": 0.7500000001, "t": 0.25}})
    assert same_servers(plan.servers, served_plan(rounded, configs, "cpu/tiny").servers)
    for other in ({"a": {"s": 1.0, "t": 1.0}}, {"a": {"s": 1.0}}, {"b": {"s": 3.0, "t": 1.0}}):
        changed = served_plan(replace(ROUTES, adapters=other), configs, "cpu/tiny")
        assert not same_servers(plan.servers, changed.servers)
    more = configs | {"t": replace(LIMITS, max_loras=8, max_cpu_loras=8)}
    assert not same_servers(plan.servers, served_plan(ROUTES, more, "cpu/tiny").servers)
