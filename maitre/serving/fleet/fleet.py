"""The vLLM servers of this machine: which ones run, what they hold, how a plan is applied.

The servers themselves say what they hold. `fleet.json` lists their addresses and how they were
started; `routes.json` says where requests go.
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
from maitre.serving.fleet.adapter_folder import check_adapter, without_byte_order_mark
from maitre.serving.fleet.apply import Applied, apply_steps
from maitre.serving.fleet.local_server import LaunchOptions, LocalServer
from maitre.serving.names import adapter_folder, dns_label, inside
from maitre.serving.proxy.routes import RoutedPrompt, RoutedServer, Routes, read_routes
from maitre.twin.limits import VllmLimits

FLEET_FILE = "fleet.json"
ROUTES_FILE = "routes.json"


@dataclass(frozen=True)
class FleetServer:
    """A server that was started on this machine, and the limits that the plan gave it."""

    name: str
    url: str
    pid: int
    log: str
    base_model: str
    config: VllmLimits

    def process(self) -> LocalServer:
        """Return the server's process."""
        return LocalServer(self.name, self.url, self.pid, Path(self.log))


@dataclass(frozen=True)
class FleetOptions:
    """How servers are started: vLLM's interpreter, and the folders of base models and adapters.

    `launch` holds the options that a plan does not set (precision, KV cache, ...).
    """

    python: Path
    adapters_folder: Path
    model_paths: Mapping[str, str]
    launch: LaunchOptions
    prefix: tuple[str, ...] = ()
    ready_timeout_s: float = 300.0
    allow_other_base_models: bool = False


def read_fleet(folder: Path) -> dict[str, FleetServer]:
    """Return the servers in a folder's `fleet.json`; none when there is no file.

    Raises:
        UserError: the file cannot be read.
    """
    file = folder / FLEET_FILE
    if not file.is_file():
        return {}
    try:
        return {
            entry["name"]: FleetServer(**{**entry, "config": VllmLimits.of(entry["config"])})
            for entry in json.loads(file.read_text())
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: expected a list of servers; got {error}") from error


class LocalFleet:
    """The servers that one folder's `fleet.json` lists."""

    def __init__(self, folder: Path, options: FleetOptions) -> None:
        self.folder, self.options = folder, options
        self._wanted: dict[str, PlannedServer] = {}

    @property
    def routes_path(self) -> Path:
        """Return the path of the route file."""
        return self.folder / ROUTES_FILE

    def known(self) -> dict[str, FleetServer]:
        """Return every server that was started and not stopped, running or not.

        Raises:
            UserError: `fleet.json` cannot be read.
        """
        return read_fleet(self.folder)

    def running(self) -> dict[str, FleetServer]:
        """Return the servers that answer."""
        found = {}
        for name, server in self.known().items():
            with VllmClient(server.url) as client:
                if server.process().alive() and client.healthy():
                    found[name] = server
        return found

    def placed(self) -> dict[str, dict[str, float]]:
        """Return, for each loaded adapter, the servers that hold it and their routed shares."""
        routes = read_routes(self.routes_path)
        found: dict[str, dict[str, float]] = {}
        for name, server in self.running().items():
            with VllmClient(server.url) as client:
                for adapter in client.adapters():
                    share = routes.adapters.get(adapter, {}).get(name, 0.0)
                    found.setdefault(adapter, {})[name] = share
        return found

    def steps_to(self, plan: PlacementPlan) -> tuple[Step, ...]:
        """Return the steps that apply the plan; none when it is applied already."""
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
        """Apply the plan. To apply the same plan again changes nothing."""
        self._wanted = {server.name: server for server in plan.servers}
        steps = self.steps_to(plan)
        self._remove_dead()
        routed = {
            adapter: {name: share for name, share in shares.items() if share > 0}
            for adapter, shares in self.placed().items()
        }
        return apply_steps(steps, self, routed, progress)

    def route_prompts(self, prompts: Mapping[str, RoutedPrompt]) -> None:
        """Route tuned prompts, by model name, in addition to the adapters."""
        routes = read_routes(self.routes_path)
        write_text(self.routes_path, replace(routes, prompts=dict(prompts)).to_json())

    def stop_all(self) -> None:
        """Stop every server and remove all routes."""
        for server in self.known().values():
            server.process().stop()
        self._write({})
        write_text(self.routes_path, Routes().to_json())

    # The steps, as `apply_steps` calls them.

    def start(self, names: Sequence[str]) -> dict[str, str]:
        """Start servers at the same time; return the reason for each that did not become ready."""
        reasons, started = {}, {}
        for name in names:
            try:
                started[name] = self._launch(self._wanted[name])
            except UserError as error:
                reasons[name] = str(error)
        for name, server in started.items():
            try:
                server.wait_until_ready(self.options.ready_timeout_s)
            except VllmError as error:
                server.stop()
                reasons[name] = str(error)
            else:
                self._add(self._wanted[name], server)
        return reasons

    def restart(self, name: str) -> None:
        """Start a new server with the adapters that stay, switch the routes, stop the old one."""
        old, wanted = self.known()[name], self._wanted[name]
        server = self._launch(wanted)
        staying = {held.adapter for held in wanted.adapters}
        try:
            server.wait_until_ready(self.options.ready_timeout_s)
            with VllmClient(old.url) as before, VllmClient(server.url) as after:
                for adapter in sorted(set(before.adapters()) & staying):
                    after.load_adapter(
                        adapter,
                        str(self._loadable_folder(wanted.base_model, wanted.config, adapter)),
                    )
        except UserError:
            server.stop()
            raise
        self._add(wanted, server)
        old.process().stop()

    def load(self, server: str, adapter: str) -> None:
        """Load an adapter; raise `AdapterError` when the server could not hold it."""
        held = self.known()[server]
        folder = self._loadable_folder(held.base_model, held.config, adapter)
        with VllmClient(held.url) as client:
            if adapter not in client.adapters():
                client.load_adapter(adapter, str(folder))

    def unload(self, server: str, adapter: str) -> None:
        """Unload an adapter; do nothing when it is not loaded."""
        with VllmClient(self.known()[server].url) as client:
            if adapter in client.adapters():
                client.unload_adapter(adapter)

    def route(self, adapter: str, shares: Mapping[str, float]) -> None:
        """Write the adapter's route."""
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

    def check_adapters(self, plan: PlacementPlan) -> dict[tuple[str, str], str]:
        """Return why servers would refuse adapters of the plan, by server and adapter."""
        refused = {}
        for server in plan.servers:
            for held in server.adapters:
                try:
                    self._checked_folder(server.base_model, server.config, held.adapter)
                except UserError as error:
                    refused[server.name, held.adapter] = str(error)
        return refused

    def _loadable_folder(self, base_model: str, config: VllmLimits, adapter: str) -> Path:
        """Return the folder that vLLM loads; raise `UserError` if the server would refuse it."""
        folder = self._checked_folder(base_model, config, adapter)
        return without_byte_order_mark(folder, self.folder / "adapters" / dns_label(adapter))

    def _checked_folder(self, base_model: str, config: VllmLimits, adapter: str) -> Path:
        """Return the adapter's folder; raise `UserError` if the server would refuse it."""
        root = self.options.adapters_folder.resolve()
        folder = adapter_folder(root, adapter)
        if not folder.is_dir() and (root / adapter).is_dir():
            # Folders that carry the name as it is, on file systems that allow it.
            folder = inside(root, adapter)
        names = {base_model, self.options.model_paths.get(base_model, base_model)}
        any_model = self.options.allow_other_base_models
        check_adapter(folder, config.buffer_rank, frozenset(() if any_model else names))
        return folder

    def _add(self, wanted: PlannedServer, server: LocalServer) -> None:
        entry = FleetServer(
            wanted.name, server.url, server.pid, str(server.log), wanted.base_model, wanted.config
        )
        self._write({**self.known(), wanted.name: entry})

    def _remove_dead(self) -> None:
        """Remove servers that do not answer, and kill what is left of their processes."""
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
        """Write the routes with the servers' present addresses."""
        known = self.known()
        servers = {name: RoutedServer(s.url, s.base_model) for name, s in sorted(known.items())}
        adapters = {
            adapter: held
            for adapter, shares in routes.adapters.items()
            if (held := {name: share for name, share in shares.items() if name in known})
        }
        write_text(self.routes_path, replace(routes, servers=servers, adapters=adapters).to_json())
