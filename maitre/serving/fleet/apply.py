"""Carries out the steps from one placement to another, and goes on where one of them fails.

The steps come in the order in which no adapter that stays is ever unserved (`placement.steps`).
When a step fails, what depends on it is left out: an adapter that could not be loaded where it
should go stays where it was, routed as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from maitre.errors import UserError
from maitre.placement.steps import Step
from maitre.progress import ReportLine


class Servers(Protocol):
    """What carries steps out; every method raises `VllmError` or `ValueError` where it cannot."""

    def start(self, names: Sequence[str]) -> Mapping[str, str]:
        """Start servers and wait; the complaint of each that did not come up."""

    def restart(self, name: str) -> None:
        """Start a server anew beside the old one with what it holds; the old one then goes."""

    def load(self, server: str, adapter: str) -> None:
        """Load an adapter."""

    def unload(self, server: str, adapter: str) -> None:
        """Unload an adapter."""

    def route(self, adapter: str, shares: Mapping[str, float]) -> None:
        """Send the adapter's requests there from now on; nowhere with no shares."""

    def stop(self, name: str) -> None:
        """Stop a server."""


@dataclass(frozen=True)
class Failure:
    """A step that failed and why."""

    step: Step
    reason: str

    def __str__(self) -> str:
        what = " ".join(part for part in (self.step.adapter, self.step.server) if part)
        return f"{self.step.action} {what}: {self.reason}"


@dataclass
class Applied:
    """What was done, what failed, and what was left out because of it."""

    done: list[Step] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    left_out: list[Step] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every step was done."""
        return not self.failed and not self.left_out


def apply_steps(
    steps: Sequence[Step],
    servers: Servers,
    routed_before: Mapping[str, Mapping[str, float]],
    progress: ReportLine = lambda _: None,
) -> Applied:
    """Carry the steps out in order. `routed_before` is where each adapter is served now."""
    return _Run(servers, routed_before, progress).all(steps)


class _Run:
    def __init__(
        self,
        servers: Servers,
        routed_before: Mapping[str, Mapping[str, float]],
        progress: ReportLine,
    ) -> None:
        self._servers, self._progress = servers, progress
        self._routed = {adapter: dict(shares) for adapter, shares in routed_before.items()}
        self._down: set[str] = set()
        self._not_loaded: set[tuple[str, str]] = set()
        self._kept: set[str] = set()
        self._applied = Applied()

    def all(self, steps: Sequence[Step]) -> Applied:
        new = [step for step in steps if step.action == "start_server"]
        if new:
            self._start(new)
        for step in steps:
            if step.action != "start_server":
                self._one(step)
        return self._applied

    def _start(self, steps: Sequence[Step]) -> None:
        """New servers come up side by side."""
        self._progress(f"starting {', '.join(step.server for step in steps)}")
        complaints = self._servers.start([step.server for step in steps])
        for step in steps:
            if step.server in complaints:
                self._down.add(step.server)
                self._applied.failed.append(Failure(step, complaints[step.server]))
            else:
                self._applied.done.append(step)

    def _one(self, step: Step) -> None:
        if self._must_wait(step):
            self._applied.left_out.append(step)
            if step.action == "load":
                self._not_loaded.add((step.server, step.adapter))
            return
        try:
            self._carry_out(step)
        except UserError as error:
            self._applied.failed.append(Failure(step, str(error)))
            if step.action == "load":
                self._not_loaded.add((step.server, step.adapter))
        else:
            self._applied.done.append(step)

    def _must_wait(self, step: Step) -> bool:
        if step.action == "load":
            return step.server in self._down
        if step.action == "unload":
            return step.adapter in self._kept
        if step.action == "stop_server":
            return any(step.server in shares for shares in self._routed.values())
        return False

    def _carry_out(self, step: Step) -> None:
        if step.action == "restart_server":
            self._progress(f"restarting {step.server}")
            self._servers.restart(step.server)
        elif step.action == "load":
            self._servers.load(step.server, step.adapter)
        elif step.action == "unload":
            self._servers.unload(step.server, step.adapter)
        elif step.action == "stop_server":
            self._progress(f"stopping {step.server}")
            self._servers.stop(step.server)
        elif step.action == "route":
            self._route(step.adapter, step.shares or {})

    def _route(self, adapter: str, shares: Mapping[str, float]) -> None:
        there = {
            server: share
            for server, share in shares.items()
            if (server, adapter) not in self._not_loaded
        }
        if len(there) < len(shares):
            self._kept.add(adapter)
            if self._routed.get(adapter):
                return
            total = sum(there.values())
            there = {server: share / total for server, share in there.items()}
        self._servers.route(adapter, there)
        if there:
            self._routed[adapter] = there
        else:
            self._routed.pop(adapter, None)
