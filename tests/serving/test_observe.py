import pytest

from maitre.serving.observe import (
    ServerSample,
    TrafficSample,
    request_counts,
    requests_by_model,
    sample_traffic,
    starving_servers,
    throughput_tps,
)
from maitre.serving.proxy.routes import RoutedServer, Routes

PROXY_TEXT = """# TYPE maitre_proxy_requests counter
maitre_proxy_requests_total{model="french \\"q\\"",status="200"} 12
maitre_proxy_requests_total{model="french \\"q\\"",status="502"} 1
maitre_proxy_requests_total{model="legal",status="200"} 3
"""


def sample(
    at_s: float, waiting: float = 0.0, slot: float = 0.0, tokens: float = 0.0, gateway: str = "",
    **requests: float,
) -> TrafficSample:  # fmt: skip
    server = ServerSample("s", 4.0, waiting, slot, 0.5, tokens, 0.0, 0.0)
    return TrafficSample(at_s, (server,), requests, {}, gateway)


def test_rates_come_from_counters_and_survive_a_restart() -> None:
    samples = [sample(0, a=10, b=50), sample(20, a=30, b=4, c=2), sample(30, a=31, b=5, c=2)]
    assert request_counts(samples) == ({"a": 21.0, "b": 5.0, "c": 2.0}, 30.0)
    assert request_counts(samples[:1]) == ({}, 0.0)


def test_a_look_without_the_gateway_leaves_no_gap() -> None:
    samples = [sample(0, a=10), sample(20, gateway="no gateway"), sample(40, a=30)]
    assert request_counts(samples) == ({"a": 20.0}, 40.0)


def test_throughput_comes_from_token_counters() -> None:
    samples = [sample(0, tokens=100), sample(10, tokens=300), sample(20, tokens=50)]
    assert throughput_tps(samples) == {"s": 12.5}, "250 tokens in 20 s, a restart between"
    assert throughput_tps(samples[:1]) == {}


def test_a_queue_that_grows_is_starvation_and_has_a_reason() -> None:
    assert starving_servers(sample(0, 2), sample(60, 40, slot=38)) == {"s": "slots"}
    assert starving_servers(sample(0, 2), sample(60, 40)) == {"s": "capacity"}
    assert starving_servers(sample(0, 40), sample(60, 20)) == {}, "the queue gets shorter"
    assert starving_servers(sample(0, 0), sample(60, 3)) == {}, "a few waiting are no starvation"


def test_the_proxys_counts_are_summed_over_answers() -> None:
    assert requests_by_model(PROXY_TEXT) == {'french "q"': 13.0, "legal": 3.0}


def test_a_server_that_is_not_there_is_named_and_the_others_are_seen() -> None:
    routes = Routes({"gone": RoutedServer("http://127.0.0.1:9", "tiny")})
    seen = sample_traffic(routes, 1.0, PROXY_TEXT)
    assert seen.servers == ()
    assert "no server at http://127.0.0.1:9" in seen.unseen["gone"]
    assert seen.requests["legal"] == pytest.approx(3.0)


def test_a_sight_round_trips() -> None:
    seen = sample(3.0, 1.0, a=2.0, gateway="silent")
    assert TrafficSample.from_dict(seen.to_dict()) == seen
