"""Warn where servers get requests of other lengths than their profile was fitted on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maitre.placement.catalogue import AdapterCatalogue
from maitre.placement.planned_server import PlannedServer
from maitre.twin import Lengths, ServerProfile


def length_warnings(
    servers: Iterable[PlannedServer],
    catalogue: AdapterCatalogue,
    profile: ServerProfile,
    lengths: Lengths,
) -> tuple[str, ...]:
    """Return one line where the mean request of servers is outside the profile's range.

    The means are those of the servers' requests, weighted by the adapters' rates.
    """
    mean_in, mean_out = lengths.means()
    place = {str(name): i for i, name in enumerate(catalogue.names)}
    inputs = np.where(
        np.isfinite(catalogue.mean_input_tokens), catalogue.mean_input_tokens, mean_in
    )
    outputs = np.where(
        np.isfinite(catalogue.mean_output_tokens), catalogue.mean_output_tokens, mean_out
    )
    low, high = profile.valid.mean_total_tokens
    outside = []
    servers = tuple(servers)
    for server in servers:
        held = np.array([place[share.adapter] for share in server.adapters])
        rates = catalogue.rates_rps[held] * [share.share for share in server.adapters]
        weights = rates if rates.sum() > 0 else np.ones(len(held))
        means = [float(np.average(tokens[held], weights=weights)) for tokens in (inputs, outputs)]
        if not low <= sum(means) <= high:
            outside.append(means)
    if not outside:
        return ()
    farthest = max(outside, key=lambda means: abs(np.log(sum(means) / np.sqrt(low * high))))
    return (
        f"requests of {sum(farthest):g} tokens on average (input {farthest[0]:g} + output "
        f"{farthest[1]:g}) on {len(outside)} of {len(servers)} servers are outside the "
        f"{low:g}..{high:g} tokens that profile {profile.name} was fitted on: measure a server "
        "with such requests (maitre twin measure) before you rely on this plan",
    )
