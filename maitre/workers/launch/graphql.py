"""Launch a request's run at once, through Dagster's GraphQL interface.

A submission does so when a worker is idle, and the scheduler during its tick: Dagster starts the
runs that a sensor requests only after the tick. When a launch fails here, the sensor requests the
run.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from maitre.errors import UserError
from maitre.requests.request import HANDED_TO, RequestState, TuningRequest
from maitre.requests.store import RequestStore
from maitre.settings import Settings
from maitre.workers.launch.run_tags import config_of, tags_of
from maitre.workers.pool.client import direct
from maitre.workers.pool.pool import PoolWorker

LOCATION = "pipelines.tuning"
_REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
_HOLD_S = 20.0
_ANSWER_S = 10.0
# The mutations of one document run one after the other. To add an existing partition is no error.
_LAUNCH = """
mutation($repository: RepositorySelector!, $task: String!, $parameters: ExecutionParams!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: "tasks",
                      partitionKey: $task) {
    __typename
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
_TERMINATE = """
mutation($run: String!) { terminateRun(runId: $run) { __typename } }"""


class GraphqlError(UserError):
    """Dagster's webserver has refused a call, or did not answer; the message says why.

    `maybe_done` says that it may have carried out the call.
    """

    def __init__(self, message: str, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


@dataclass(frozen=True)
class DagsterClient:
    """A client of Dagster's webserver at `url`."""

    url: str

    def launch(self, request: TuningRequest, workers: Sequence[str], lookup: bool) -> str:
        """Launch the request's run for these workers; return the run's id."""
        tags = {**tags_of(request, workers), "dagster/partition": request.task}
        parameters = {
            "selector": {**_REPOSITORY, "jobName": "tune"},
            "mode": "default",
            "runConfigData": config_of(request, lookup),
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        }
        variables = {"repository": _REPOSITORY, "task": request.task, "parameters": parameters}
        answer = self._call(_LAUNCH, variables)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise GraphqlError(f"launchRun: {json.dumps(answer)}")
        return str(answer["run"]["runId"])

    def terminate(self, run_id: str) -> bool:
        """Cancel a run; return whether Dagster has accepted that."""
        answer = self._call(_TERMINATE, {"run": run_id})["terminateRun"]
        return bool(answer["__typename"] == "TerminateRunSuccess")

    def _call(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with direct().open(request, timeout=_ANSWER_S) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise GraphqlError(f"{self.url}: {error.code} {text}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
            raise GraphqlError(f"{self.url}: {error}", maybe_done=not refused) from None
        if document.get("errors"):
            raise GraphqlError(f"{self.url}: {document['errors'][0]['message']}")
        data: dict[str, Any] = document["data"]
        return data


def launch_on_idle(
    settings: Settings, request: TuningRequest, workers: list[PoolWorker], now: datetime
) -> str | None:
    """Start the request on an idle worker of its model; return the worker's name, or `None`.

    As in the scheduler, only the process that holds the request may launch its run.
    """
    idle = [w for w in workers if w.base_model == request.base_model and w.is_idle]
    if not idle or not settings.dagster_url:
        return None
    # The one that was used last, so that the others may reach their idle window.
    worker = max(idle, key=lambda w: w.view.since_s if w.view else 0.0)
    store = RequestStore(settings.request_queue_url)
    owner = HANDED_TO + worker.name
    if not store.take(request.request_id, owner=owner, now=now, hold_s=_HOLD_S):
        return None
    try:
        is_launched = launch_held(settings, store, request, [worker.name], request.lookup)
    except GraphqlError as error:
        why = f"not launched at once: {error}"
        store.give_back(request.request_id, owner=owner, message=why)
        return None
    return worker.name if is_launched else None


def launch_held(
    settings: Settings,
    store: RequestStore,
    request: TuningRequest,
    workers: Sequence[str],
    lookup: bool,
) -> bool:
    """Launch the run of a request that the caller holds; return whether that is certain.

    If it is not certain, the request stays held for a while; then the scheduler looks whether it
    has a run. Raises `GraphqlError` when the run was certainly not launched.
    """
    try:
        run_id = DagsterClient(settings.dagster_url).launch(request, workers, lookup)
    except GraphqlError as error:
        if not error.maybe_done:
            raise
        return False
    if not store.bind_run(request.request_id, attempt=request.attempt, run_id=run_id):
        # The hold has run out, and another run was launched for the request.
        return False
    store.move(
        request.request_id,
        expected=RequestState.STARTING,
        state=RequestState.LAUNCHED,
        message=f"on {', '.join(workers)}",
    )
    return True
