"""The HTTP client of one worker."""

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from maitre.workers.pool.protocol import Claim, WorkerView

_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 1000
_MAX_SILENT = 1000


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
        silence = _silence_of_process()
        try:
            document = self._call("GET", "/status", timeout_s=silence.patience_s(self))
        except WorkerUnreachableError as error:
            silence.note(self, is_silent=not error.is_gone)
            raise
        silence.note(self, is_silent=False)
        try:
            return WorkerView.from_json(document)
        except (TypeError, ValueError, AttributeError) as error:
            reason = f"not a worker's answer: {type(error).__name__}"
            raise WorkerUnreachableError(f"{self.url}/status: {reason}", is_gone=False) from None

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

    def _call(
        self, method: str, path: str, document: Any = None, timeout_s: float | None = None
    ) -> Any:
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
            with direct().open(request, timeout=timeout_s or self.timeout_s) as answer:
                text = answer.read(_MAX_ANSWER_BYTES)
            return json.loads(text)
        except urllib.error.HTTPError as error:
            text = error.read(_MAX_ERROR_BYTES).decode(errors="replace")
            raise ClaimRefusedError(f"{self.url}{path}: {error.code} {text}") from None
        except (
            urllib.error.URLError,
            TimeoutError,
            ConnectionError,
            http.client.HTTPException,
        ) as error:
            reason = getattr(error, "reason", error)
            is_gone = isinstance(reason, ConnectionRefusedError)
            raise WorkerUnreachableError(f"{self.url}{path}: {reason}", is_gone) from None
        except (ValueError, RecursionError):
            reason = "not a worker's answer: expected JSON"
            raise WorkerUnreachableError(f"{self.url}{path}: {reason}", is_gone=False) from None


class Silence:
    """The workers that have not answered for a moment, so that each round waits less for them.

    A worker that did not answer in time gets only a part of that time again, until it answers or
    `full_every_s` have passed; then it gets the full time once more.
    """

    def __init__(self, short_s: float = 0.5, full_every_s: float = 10.0) -> None:
        self._short_s = short_s
        self._full_every_s = full_every_s
        self._since_s: dict[str, float] = {}

    def patience_s(self, client: WorkerClient) -> float:
        """Return how long to wait for the worker's answer now."""
        since_s = self._since_s.get(client.url)
        if since_s is None or time.monotonic() - since_s > self._full_every_s:
            self._since_s.pop(client.url, None)
            return client.timeout_s
        return min(self._short_s, client.timeout_s)

    def note(self, client: WorkerClient, is_silent: bool) -> None:
        """Record whether the worker did not answer in time."""
        if not is_silent:
            self._since_s.pop(client.url, None)
            return
        if len(self._since_s) > _MAX_SILENT:
            # The addresses of workers that have ended long ago.
            self._since_s.clear()
        self._since_s.setdefault(client.url, time.monotonic())


@lru_cache(maxsize=1)
def _silence_of_process() -> Silence:
    """Return the record of this process: pools and clients are made anew in each round."""
    return Silence()


def direct() -> urllib.request.OpenerDirector:
    """Return an opener for workers and Dagster that ignores the environment's HTTP proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
