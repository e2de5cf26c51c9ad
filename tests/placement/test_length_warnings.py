"""Requests far from those that the profile was fitted on are warned of, with their true mean."""

import numpy as np

from maitre.maxpack.options import default_lengths
from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.length_warnings import length_warnings
from maitre.placement.plan import AdapterShare, PlannedServer
from maitre.placement.replicas import fits_nowhere
from maitre.twin import ServerProfile
from maitre.twin.limits import VllmLimits
from tests.placement.test_place import catalogue_of

LIMITS = VllmLimits(8, 8, 16, 256, 2048)


def server(name: str, *adapters: str) -> PlannedServer:
    return PlannedServer(name, "m", LIMITS, tuple(AdapterShare(a) for a in adapters))


def with_lengths(rates: list[float], inputs: list[float], outputs: list[float]) -> AdapterCatalogue:
    frame = catalogue_of(rates, [8] * len(rates)).frame()
    return AdapterCatalogue.from_frame(
        frame.assign(mean_input_tokens=inputs, mean_output_tokens=outputs)
    )


def test_the_mean_is_that_of_the_requests_and_not_of_the_adapters(profile: ServerProfile) -> None:
    catalogue = with_lengths([3.0, 1.0], [30_000, 10_000], [300, 100])
    [line] = length_warnings([server("s", "a0", "a1")], catalogue, profile, default_lengths())
    assert "25250 tokens on average (input 25000 + output 250) on 1 of 1 servers" in line
    low, high = profile.valid.mean_total_tokens
    assert f"{low:g}..{high:g}" in line


def test_usual_lengths_and_adapters_without_requests_are_not_warned_of(
    profile: ServerProfile,
) -> None:
    usual = catalogue_of([0.3, 0.0], [8, 8])
    servers = [server("s", "a0"), server("t", "a1")]
    assert length_warnings(servers, usual, profile, default_lengths()) == ()


def test_the_farthest_of_several_servers_is_named(profile: ServerProfile) -> None:
    catalogue = with_lengths([1.0] * 3, [30_000, 5, np.nan], [300, 5, np.nan])
    servers = [server("s", "a0"), server("t", "a1"), server("u", "a2")]
    [line] = length_warnings(servers, catalogue, profile, default_lengths())
    assert "on 2 of 3 servers" in line
    assert "requests of 30300 tokens" in line or "requests of 10 tokens" in line


def test_an_adapter_that_fits_nowhere_is_described_with_a_way_out() -> None:
    catalogue = with_lengths([2.0], [30_000], [300])
    text = str(fits_nowhere(catalogue, np.array([0])))
    assert "rank 8, 2 requests/s of 30300 tokens each" in text
    assert "lower its rate" in text
