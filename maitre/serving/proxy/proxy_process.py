"""The proxy as a child process: `maitre up` starts it when servers are routed."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2

from maitre.processes.child import ChildProcess
from maitre.processes.environment import UP_ID, child_environment
from maitre.processes.service_error import ServiceError
from maitre.serving.proxy.routes import read_routes

STOP_TIMEOUT_S = 5.0
_PAUSE_S = 0.2


@dataclass(frozen=True)
class ProxyProcess:
    """A proxy that was started, or one that ran already (`process` is None)."""

    url: str
    folder: Path
    log: Path
    process: ChildProcess | None

    @classmethod
    def start_where_routed(
        cls,
        serving_folder: Path,
        log_folder: Path,
        port: int,
        base_model: tuple[str, str],
        up_id: str = "",
    ) -> Self | None:
        """Start the proxy if the folder's routes name servers; else return None.

        `base_model` is the name and folder of the model of the tuned prompts, `up_id` the id of the
        `maitre up` that the proxy belongs to.

        Raises:
            UserError: the route file cannot be read.
            ServiceError: the port is in use by a proxy of other routes.
        """
        if not read_routes(serving_folder / "routes.json").servers:
            return None
        log, url = log_folder / "proxy.log", f"http://127.0.0.1:{port}"
        there = _folder_of(url)
        if there == serving_folder.resolve():
            return cls(url, serving_folder, log, None)
        if there is not None:
            raise ServiceError(f"{url} is the proxy of {there}; give another --proxy-port")
        command = [sys.executable, "-m", "maitre.cli", "deploy", "proxy", f"--port={port}"]
        command += [f"--folder={serving_folder}", f"--model={base_model[0]}={base_model[1]}"]
        environment = child_environment({UP_ID: up_id} if up_id else {})
        process = ChildProcess.start("proxy", command, log=log, environment=environment)
        return cls(url, serving_folder, log, process)

    def wait_until_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the proxy answers.

        Raises:
            ServiceError: the proxy ended (its port may be in use), or it did not answer in time;
                it is then stopped.
        """
        give_up_at = time.monotonic() + timeout_s
        while _folder_of(self.url) != self.folder.resolve():
            if self.ended():
                raise ServiceError(f"the proxy at {self.url} ended; see {self.log}")
            if time.monotonic() > give_up_at:
                self.stop()
                raise ServiceError(
                    f"the proxy did not answer at {self.url} within {timeout_s:.0f} s; "
                    f"see {self.log}"
                )
            time.sleep(_PAUSE_S)

    def ended(self) -> bool:
        """Return whether the proxy was started by this process and has ended."""
        return self.process is not None and not self.process.is_running()

    def stop(self) -> None:
        """Interrupt the proxy if this process started it; kill it when it does not end."""
        if self.process is not None:
            self.process.stop(STOP_TIMEOUT_S)


def _folder_of(url: str) -> Path | None:
    """Return the folder of the routes of the proxy at `url`; None when there is no proxy."""
    try:
        answer = httpx2.get(f"{url}/health", timeout=2.0)
        health = answer.json() if answer.status_code == 200 else None
    except (httpx2.HTTPError, ValueError):
        return None
    folder = health.get("folder") if isinstance(health, dict) else None
    return Path(folder) if isinstance(folder, str) else None
