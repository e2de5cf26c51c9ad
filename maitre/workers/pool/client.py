"""The HTTP client of one worker."""

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from maitre.workers.pool.protocol import Claim, WorkerView


class WorkerUnreachableError(ConnectionError):
    """A worker did not answer. `is_gone` says that no process listens at its address."""

    def __init__(self, message: str, is_gone: bool) -> None:
        super().__init__(message)
        self.is_gone = is_gone


class ClaimRefusedError(RuntimeError):
    """A worker has refused a call, or does not hold that claim; the message is the worker's."""


@dataclass(frozen=True)
class WorkerClient:
    """A client of the worker at `url`."""

    url: str
    token: str
    timeout_s: float = 2.0

    def status(self) -> WorkerView:
        """Return the worker's state; raise `WorkerUnreachableError` when it does not answer."""
        return WorkerView.from_json(self._call("GET", "/status"))

    def claim(self, claim: Claim) -> None:
        """Give the worker a run; raise `ClaimRefusedError` when it is not idle."""
        self._call("POST", "/claims", asdict(claim))

    def cancel(self, attempt: str) -> None:
        """Cancel the run at its next step; raise `ClaimRefusedError` without that claim."""
        self._call("POST", f"/claims/{attempt}/cancel")

    def preempt(self, attempt: str) -> None:
        """Stop the run at its next step and keep its checkpoint for another worker."""
        self._call("POST", f"/claims/{attempt}/preempt")

    def drain(self, preempt: bool = True) -> None:
        """Let the worker take no more claims and end; stop its run, or finish it first."""
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
    """Return an opener for workers and Dagster that ignores the environment's HTTP proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
