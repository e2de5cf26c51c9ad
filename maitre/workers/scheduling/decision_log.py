"""One decision of the scheduler as a document: what it saw and what it decided.

From the document the same snapshot can be built again and the policy asked once more: policies are
deterministic, so the answer must be the same (`maitre cluster replay TICK.json`).
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from maitre.errors import UserError
from maitre.files import write_text
from maitre.scheduling import actions as act
from maitre.scheduling.cluster import ModelSpec, cluster_from_mapping
from maitre.scheduling.policies import named_policy
from maitre.scheduling.snapshot import (
    Completion,
    JobView,
    LookupView,
    Pool,
    RunningJob,
    Snapshot,
    Worker,
)

FORMAT = "maitre-tick-1"
_ACTIONS = {
    kind.__name__: kind
    for kind in (
        act.StartWorkers, act.LoadModel, act.StopWorker, act.StartLookup, act.StartJob,
        act.ResizeJob, act.PreemptJob, act.RejectJob, act.WaitUntil,
    )
}  # fmt: skip


_NOT_SO = (KeyError, TypeError, AttributeError, ValueError)
"""What reading raises where the document is of another shape."""
_PARTS = ("policy", "time_s", "held", "cluster", "pools", "actions")


class TickError(UserError):
    """A file is not a tick; the message says which and why."""


def to_document(snapshot: Snapshot, policy: str, actions: Sequence[act.Action]) -> dict[str, Any]:
    """The decision as JSON types."""
    cluster = snapshot.cluster
    return {
        "format": FORMAT,
        "policy": policy,
        "time_s": snapshot.time_s,
        "held": snapshot.held,
        "cluster": {
            "gpus": cluster.gpus,
            "gpu_price_per_hour": cluster.gpu_price_per_hour,
            "failures_per_worker_hour": cluster.failures_per_worker_hour,
        },
        "pools": {name: _pool_document(pool) for name, pool in snapshot.pools.items()},
        "actions": [{"action": type(a).__name__, **asdict(a)} for a in actions],
    }


def from_document(document: dict[str, Any]) -> Snapshot:
    """The snapshot that a decision was taken on; `TickError` when the document is not a tick."""
    if document.get("format") != FORMAT:
        raise TickError(f"expected a document of the format {FORMAT}")
    try:
        pools = document["pools"]
        models = {name: _without_name(pool["model"]) for name, pool in pools.items()}
        cluster = cluster_from_mapping({**document["cluster"], "models": models}, "its cluster")
        return Snapshot(
            _read(float, document["time_s"]),
            cluster,
            {name: _pool(pool, cluster.models[name]) for name, pool in pools.items()},
            {},
            _read(int, document["held"]),
            frozenset(models),
        )
    except _NOT_SO as error:
        raise _no_tick("its snapshot", error) from None


def decided(document: dict[str, Any]) -> list[act.Action]:
    """The actions that the document holds; `TickError` when it is not a tick."""
    made: list[act.Action] = []
    try:
        for entry in document["actions"]:
            values = {key: value for key, value in entry.items() if key != "action"}
            made.append(_read(_ACTIONS[entry["action"]], values))
    except _NOT_SO as error:
        raise _no_tick("its actions", error) from None
    return made


def _no_tick(what: str, error: Exception) -> TickError:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return TickError(f"not a tick: {what}: {field}: {first['msg']}")
    missing = isinstance(error, KeyError)
    return TickError(f"not a tick: {what}: {'no ' if missing else ''}{error}")


def replay(document: dict[str, Any]) -> list[act.Action]:
    """What the document's policy decides on its snapshot now."""
    snapshot = from_document(document)
    return list(named_policy(str(document["policy"])).decide(snapshot))


def write_tick(folder: Path, document: dict[str, Any], keep: int = 500) -> Path:
    """Write a tick under its time, whole or not at all; keep the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Two daemons may decide at the same moment; both leave their record.
    path = folder / f"tick-{document['time_s']:.3f}-{secrets.token_hex(2)}.json"
    write_text(path, json.dumps(document, indent=1))
    for old in sorted(folder.glob("tick-*.json"))[:-keep]:
        old.unlink(missing_ok=True)
    return path


def read_tick(path: Path) -> dict[str, Any]:
    """Read a tick; `TickError` when it is none, `FileNotFoundError` when there is none."""
    if path.is_dir():
        raise TickError(f"{path} is a folder; give one of the ticks in it")
    try:
        document = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TickError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TickError(f"{path}: not a tick of the scheduler ({FORMAT})")
    if missing := [part for part in _PARTS if part not in document]:
        raise TickError(f"{path}: a tick without {', '.join(missing)}")
    return document


def _pool_document(pool: Pool) -> dict[str, Any]:
    model = pool.model
    return {
        "model": {
            "name": model.name,
            "warm_up_s": model.warm_up_s,
            "lookup_s": model.lookup_s,
            "resize_s": model.resize_s,
            "iteration_s": {str(k): v for k, v in model.iteration_s.items()},
        },
        "queued": [asdict(job) for job in pool.queued.values()],
        "lookups": [asdict(lookup) for lookup in pool.lookups.values()],
        "running": [asdict(job) for job in pool.running.values()],
        "workers": [asdict(worker) for worker in pool.workers.values()],
        "idle": list(pool.idle),
        "arrivals_s": list(pool.arrivals_s),
        "completions": [asdict(completion) for completion in pool.completions],
    }


def _without_name(model: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model.items() if key != "name"}


def _pool(document: dict[str, Any], model: ModelSpec) -> Pool:
    queued = [_read(JobView, job) for job in document["queued"]]
    lookups = [_read(LookupView, value) for value in document["lookups"]]
    running = [_read(RunningJob, value) for value in document["running"]]
    workers = {value["worker"]: _read(Worker, value) for value in document["workers"]}
    return Pool(
        model,
        {job.job_id: job for job in queued},
        {lookup.job.job_id: lookup for lookup in lookups},
        {job.job.job_id: job for job in running},
        workers,
        {name: workers[name] for name in document["idle"]},
        [_read(float, moment) for moment in document["arrivals_s"]],
        [_read(Completion, value) for value in document["completions"]],
    )


def _read(kind: Any, value: Any) -> Any:
    """The value as what `kind` says; pydantic's `ValidationError` is a `ValueError`."""
    return _adapter(kind).validate_python(value)


@lru_cache(maxsize=32)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
