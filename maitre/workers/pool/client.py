"""Talks to one worker."""

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from maitre.workers.pool.protocol import Claim, WorkerView


class WorkerUnreachableError(ConnectionError):
    """A worker did not answer. `is_gone`: nothing listens there any more."""

    def __init__(self, message: str, is_gone: bool) -> None:
        super().__init__(message)
        self.is_gone = is_gone


class ClaimRefusedError(RuntimeError):
    """A worker does not take a claim (or has no such claim); the message is its own."""


@dataclass(frozen=True)
class WorkerClient:
    """One worker at a URL."""

    url: str
    token: str
    timeout_s: float = 2.0

    def status(self) -> WorkerView:
        """What the worker says about itself; `WorkerUnreachableError` when it does not answer."""
        return WorkerView.from_json(self._call("GET", "/status"))

    def claim(self, claim: Claim) -> None:
        """Give the worker a run; `ClaimRefusedError` when it is busy, loading or draining."""
        self._call("POST", "/claims", asdict(claim))

    def cancel(self, attempt: str) -> None:
        """Cancel the run at its next step; `ClaimRefusedError` when the worker does not hold it."""
        self._call("POST", f"/claims/{attempt}/cancel")

    def preempt(self, attempt: str) -> None:
        """Stop at the next step, keep the checkpoint, and let the run go to another worker."""
        self._call("POST", f"/claims/{attempt}/preempt")

    def drain(self, preempt: bool = True) -> None:
        """Take no more claims and exit; a run is given up (or, else, finished first)."""
        self._call("POST", f"/drain?preempt={str(preempt).lower()}")

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if document is None else json.dumps(document).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with direct().open(request, timeout=self.timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise ClaimRefusedError(f"{self.url}{path}: {error.code} {text}") from None
        except (
            urllib.error.URLError,
            TimeoutError,
            ConnectionError,
            http.client.HTTPException,
            json.JSONDecodeError,
        ) as error:
            reason = getattr(error, "reason", error)
            is_gone = isinstance(reason, ConnectionRefusedError)
            raise WorkerUnreachableError(f"{self.url}{path}: {reason}", is_gone) from None


def direct() -> urllib.request.OpenerDirector:
    """Opens what is a neighbour, a worker or Dagster: no proxy of the environment between."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
