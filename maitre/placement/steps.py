"""The order in which one plan becomes another without leaving an adapter unserved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal["start_server", "restart_server", "load", "route", "unload", "stop_server"]


@dataclass(frozen=True)
class Step:
    """One thing to do; the next begins when it is done.

    `start_server` and `stop_server` name a server; `restart_server` starts it anew under its new
    configuration beside the old one, which goes when the new one is ready; `load` and `unload` an
    adapter on a server; `route` gives the share of the adapter's requests that each server
    answers from then on (`shares`).
    """

    action: Action
    server: str = ""
    adapter: str = ""
    shares: Mapping[str, float] | None = None


def ordered_steps(
    placed_before: Mapping[str, Mapping[str, float]],
    placed_after: Mapping[str, Mapping[str, float]],
    servers_added: tuple[str, ...],
    servers_restarted: tuple[str, ...],
    servers_removed: tuple[str, ...],
) -> tuple[Step, ...]:
    """Return the steps from one placement (adapter -> server -> share) to another.

    New servers start first, then servers restart. Then one adapter after the other is loaded on its
    new servers, routed there, and only then unloaded from its old ones. Servers stop last, when no
    requests are routed to them. Adapters that leave a server for a new one go first: they make room
    for those that come to a running one.
    """
    steps = [Step("start_server", name) for name in servers_added]
    steps += [Step("restart_server", name) for name in servers_restarted]
    added, removed = set(servers_added), set(servers_removed)

    def comes_to_running(adapter: str) -> bool:
        return bool(set(placed_after[adapter]) - set(placed_before.get(adapter, {})) - added)

    for adapter in sorted(placed_after, key=lambda name: (comes_to_running(name), name)):
        was, becomes = placed_before.get(adapter, {}), placed_after[adapter]
        if was == becomes:
            continue
        steps += [Step("load", name, adapter) for name in sorted(set(becomes) - set(was))]
        steps.append(Step("route", adapter=adapter, shares=dict(becomes)))
        gone = sorted(set(was) - set(becomes) - removed)
        steps += [Step("unload", name, adapter) for name in gone]
    for adapter in sorted(set(placed_before) - set(placed_after)):
        steps.append(Step("route", adapter=adapter, shares={}))
        gone = sorted(set(placed_before[adapter]) - removed)
        steps += [Step("unload", name, adapter) for name in gone]
    steps += [Step("stop_server", name) for name in servers_removed]
    return tuple(steps)
