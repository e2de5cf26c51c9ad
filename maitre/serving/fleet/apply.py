"""Carry out the steps from one placement to another; continue when a step fails.

The order of the steps keeps every adapter that stays served (`placement.steps`). When a step
fails, the steps that depend on it are left out: an adapter that could not be loaded on its new
server stays on its old one, and its route does not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from maitre.errors import UserError
from maitre.placement.steps import Step
from maitre.progress import ReportLine


class Servers(Protocol):
    """Carries out single steps; a method that fails raises a `UserError`."""

    def start(self, names: Sequence[str]) -> Mapping[str, str]:
        """Start servers and wait; return the reason for each that did not become ready."""

    def restart(self, name: str) -> None:
        """Replace a server: start the new one with the same adapters, then stop the old one."""

    def load(self, server: str, adapter: str) -> None:
        """Load an adapter."""

    def unload(self, server: str, adapter: str) -> None:
        """Unload an adapter."""

    def route(self, adapter: str, shares: Mapping[str, float]) -> None:
        """Send the adapter's requests to these servers; without shares, remove its route."""

    def stop(self, name: str) -> None:
        """Stop a server."""


@dataclass(frozen=True)
class Failure:
    """A step that failed, and the reason."""

    step: Step
    reason: str

    def __str__(self) -> str:
        what = " ".join(part for part in (self.step.adapter, self.step.server) if part)
        return f"{self.step.action} {what}: {self.reason}"


@dataclass
class Applied:
    """The steps that were done, those that failed, and those left out because of a failure."""

    done: list[Step] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    left_out: list[Step] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Return whether every step was done."""
        return not self.failed and not self.left_out


def apply_steps(
    steps: Sequence[Step],
    servers: Servers,
    routed_before: Mapping[str, Mapping[str, float]],
    progress: ReportLine = lambda _: None,
) -> Applied:
    """Carry out the steps in order; `routed_before` holds the present routes."""
    return _Application(servers, routed_before, progress).run(steps)


class _Application:
    """One application of a list of steps: what was done so far, and what failed."""

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
        self._routes_not_changed: set[str] = set()
        self._applied = Applied()

    def run(self, steps: Sequence[Step]) -> Applied:
        new = [step for step in steps if step.action == "start_server"]
        if new:
            self._start(new)
        for step in steps:
            if step.action != "start_server":
                self._do_step(step)
        return self._applied

    def _start(self, steps: Sequence[Step]) -> None:
        """Start all new servers at the same time."""
        self._progress(f"starting {', '.join(step.server for step in steps)}")
        reasons = self._servers.start([step.server for step in steps])
        for step in steps:
            if step.server in reasons:
                self._down.add(step.server)
                self._applied.failed.append(Failure(step, reasons[step.server]))
            else:
                self._applied.done.append(step)

    def _do_step(self, step: Step) -> None:
        if self._depends_on_failure(step):
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

    def _depends_on_failure(self, step: Step) -> bool:
        if step.action == "load":
            return step.server in self._down
        if step.action == "unload":
            return step.adapter in self._routes_not_changed
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
        loaded = {
            server: share
            for server, share in shares.items()
            if (server, adapter) not in self._not_loaded
        }
        if len(loaded) < len(shares):
            self._routes_not_changed.add(adapter)
            if self._routed.get(adapter):
                return
            total = sum(loaded.values())
            loaded = {server: share / total for server, share in loaded.items()}
        self._servers.route(adapter, loaded)
        if loaded:
            self._routed[adapter] = loaded
        else:
            self._routed.pop(adapter, None)
