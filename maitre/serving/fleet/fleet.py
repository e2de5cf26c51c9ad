"""The vLLM servers of this machine: which run, what they hold, how a plan becomes true of them.

The processes and the servers themselves are the truth; `fleet.json` only says where they are and
how they were started, and `routes.json` where requests go.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maitre.errors import UserError
from maitre.files import write_text
from maitre.placement.plan import PlacementPlan, PlannedServer
from maitre.placement.steps import Step, ordered_steps
from maitre.progress import ReportLine
from maitre.serving.client import VllmClient
from maitre.serving.errors import VllmError
from maitre.serving.fleet.adapter_folder import check_adapter
from maitre.serving.fleet.apply import Applied, apply_steps
from maitre.serving.fleet.local_server import LaunchOptions, LocalServer
from maitre.serving.proxy.routes import RoutedPrompt, RoutedServer, Routes, read_routes
from maitre.twin.limits import VllmLimits

FLEET_FILE = "fleet.json"
ROUTES_FILE = "routes.json"


@dataclass(frozen=True)
class FleetServer:
    """A server that was started here, and the plan's configuration for it."""

    name: str
    url: str
    pid: int
    log: str
    base_model: str
    config: VllmLimits

    def process(self) -> LocalServer:
        """Its process."""
        return LocalServer(self.name, self.url, self.pid, Path(self.log))


@dataclass(frozen=True)
class FleetOptions:
    """How servers are started: vLLM's interpreter, folders of base models and of adapters.

    `launch` gives what a plan does not say (precision, KV cache, ...).
    """

    python: Path
    adapters_folder: Path
    model_paths: Mapping[str, str]
    launch: LaunchOptions
    prefix: tuple[str, ...] = ()
    ready_timeout_s: float = 300.0


def read_fleet(folder: Path) -> dict[str, FleetServer]:
    """The servers that a folder's `fleet.json` names; none where there is no file.

    Raises:
        ValueError: it cannot be read.
    """
    file = folder / FLEET_FILE
    if not file.is_file():
        return {}
    try:
        return {
            entry["name"]: FleetServer(**{**entry, "config": VllmLimits.of(entry["config"])})
            for entry in json.loads(file.read_text())
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a list of servers: {error}") from error


class LocalFleet:
    """The servers of one folder's `fleet.json`."""

    def __init__(self, folder: Path, options: FleetOptions) -> None:
        self.folder, self.options = folder, options
        self._wanted: dict[str, PlannedServer] = {}

    @property
    def routes_path(self) -> Path:
        """Where the routes are written."""
        return self.folder / ROUTES_FILE

    def known(self) -> dict[str, FleetServer]:
        """Every server that was started and not stopped, alive or not.

        Raises:
            ValueError: `fleet.json` cannot be read.
        """
        return read_fleet(self.folder)

    def running(self) -> dict[str, FleetServer]:
        """Those that answer."""
        found = {}
        for name, server in self.known().items():
            with VllmClient(server.url) as client:
                if server.process().alive() and client.healthy():
                    found[name] = server
        return found

    def placed(self) -> dict[str, dict[str, float]]:
        """For each adapter that a running server holds, the servers and the routed shares."""
        routes = read_routes(self.routes_path)
        found: dict[str, dict[str, float]] = {}
        for name, server in self.running().items():
            with VllmClient(server.url) as client:
                for adapter in client.adapters():
                    share = routes.adapters.get(adapter, {}).get(name, 0.0)
                    found.setdefault(adapter, {})[name] = share
        return found

    def steps_to(self, plan: PlacementPlan) -> tuple[Step, ...]:
        """What has to be done for the plan to be true; nothing where it is."""
        running = self.running()
        wanted = {server.name: server for server in plan.servers}
        restarted = tuple(
            name
            for name in sorted(running.keys() & wanted.keys())
            if running[name].config != wanted[name].config
            or running[name].base_model != wanted[name].base_model
        )
        return ordered_steps(
            self.placed(),
            plan.servers_of(),
            tuple(sorted(wanted.keys() - running.keys())),
            restarted,
            tuple(sorted(running.keys() - wanted.keys())),
        )

    def apply(self, plan: PlacementPlan, progress: ReportLine = lambda _: None) -> Applied:
        """Make the plan true. A second time changes nothing."""
        self._wanted = {server.name: server for server in plan.servers}
        steps = self.steps_to(plan)
        self._forget_dead()
        routed = {
            adapter: {name: share for name, share in shares.items() if share > 0}
            for adapter, shares in self.placed().items()
        }
        return apply_steps(steps, self, routed, progress)

    def route_prompts(self, prompts: Mapping[str, RoutedPrompt]) -> None:
        """Let the proxy serve these tuned prompts, by model name, beside the adapters."""
        routes = read_routes(self.routes_path)
        write_text(self.routes_path, replace(routes, prompts=dict(prompts)).to_json())

    def stop_all(self) -> None:
        """Stop every server and route nothing."""
        for server in self.known().values():
            server.process().stop()
        self._write({})
        write_text(self.routes_path, Routes().to_json())

    # The steps, as `apply_steps` calls them.

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Start servers side by side; the complaint of each that did not come up."""
        complaints, started = {}, {}
        for name in names:
            try:
                started[name] = self._launch(self._wanted[name])
            except UserError as error:
                complaints[name] = str(error)
        for name, server in started.items():
            try:
                server.wait_until_ready(self.options.ready_timeout_s)
            except VllmError as error:
                server.stop()
                complaints[name] = str(error)
            else:
                self._keep(self._wanted[name], server)
        return complaints

    def restart(self, name: str) -> None:
        """Start the server anew with the adapters it holds, switch over, stop the old one."""
        old, wanted = self.known()[name], self._wanted[name]
        server = self._launch(wanted)
        staying = {held.adapter for held in wanted.adapters}
        try:
            server.wait_until_ready(self.options.ready_timeout_s)
            with VllmClient(old.url) as before, VllmClient(server.url) as after:
                for adapter in sorted(set(before.adapters()) & staying):
                    after.load_adapter(adapter, str(self._checked(wanted.config, adapter)))
        except UserError:
            server.stop()
            raise
        self._keep(wanted, server)
        old.process().stop()

    def load(self, server: str, adapter: str) -> None:
        """Load an adapter; `ValueError` names one that the server could not hold."""
        held = self.known()[server]
        folder = self._checked(held.config, adapter)
        with VllmClient(held.url) as client:
            if adapter not in client.adapters():
                client.load_adapter(adapter, str(folder))

    def unload(self, server: str, adapter: str) -> None:
        """Unload an adapter; one that is gone already is no error."""
        with VllmClient(self.known()[server].url) as client:
            if adapter in client.adapters():
                client.unload_adapter(adapter)

    def route(self, adapter: str, shares: Mapping[str, float]) -> None:
        """Write the adapter's new route."""
        routes = read_routes(self.routes_path)
        adapters = {name: dict(old) for name, old in routes.adapters.items() if name != adapter}
        if shares:
            adapters[adapter] = dict(shares)
        self._write_routes(replace(routes, adapters=adapters))

    def stop(self, name: str) -> None:
        """Stop a server."""
        known = self.known()
        self._write({other: server for other, server in known.items() if other != name})
        known[name].process().stop()

    # Below: files and processes.

    def _launch(self, wanted: PlannedServer) -> LocalServer:
        limits: dict[str, Any] = dict(wanted.config.limits())
        launch = replace(
            self.options.launch,
            base_model=self.options.model_paths.get(wanted.base_model, wanted.base_model),
            served_name=wanted.base_model,
            **limits,
        )
        return LocalServer.start(
            wanted.name,
            launch,
            log_folder=self.folder / "logs",
            python=self.options.python,
            prefix=self.options.prefix,
        )

    def _checked(self, config: VllmLimits, adapter: str) -> Path:
        folder = self.options.adapters_folder.resolve() / adapter
        check_adapter(folder, config.buffer_rank)
        return folder

    def _keep(self, wanted: PlannedServer, server: LocalServer) -> None:
        entry = FleetServer(
            wanted.name, server.url, server.pid, str(server.log), wanted.base_model, wanted.config
        )
        self._write({**self.known(), wanted.name: entry})

    def _forget_dead(self) -> None:
        """Drop servers that no longer answer, and kill what is left of their processes."""
        running = self.running()
        for name, server in self.known().items():
            if name not in running:
                server.process().stop()
        self._write(running)

    def _write(self, servers: Mapping[str, FleetServer]) -> None:
        entries = [asdict(server) for _, server in sorted(servers.items())]
        write_text(self.folder / FLEET_FILE, json.dumps(entries, indent=2) + "\n")
        self._write_routes(read_routes(self.routes_path))

    def _write_routes(self, routes: Routes) -> None:
        """The routes with the servers' present addresses."""
        known = self.known()
        servers = {name: RoutedServer(s.url, s.base_model) for name, s in sorted(known.items())}
        adapters = {
            adapter: held
            for adapter, shares in routes.adapters.items()
            if (held := {name: share for name, share in shares.items() if name in known})
        }
        write_text(self.routes_path, replace(routes, servers=servers, adapters=adapters).to_json())
