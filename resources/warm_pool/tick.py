"""One decision of the scheduler as a document: what it saw and what it decided.

From the document the same snapshot can be built again and the policy asked once more: policies are
deterministic, so the answer must be the same (`maitre cluster replay TICK.json`).
"""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from maitre.scheduling import actions as act
from maitre.scheduling.cluster import Cluster, ModelSpec
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


class TickError(ValueError):
    """A file is no tick; the message says which and why."""


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
    """The snapshot that a decision was taken on; `TickError` when the document is no tick."""
    if document.get("format") != FORMAT:
        raise TickError(f"expected a document of the format {FORMAT}")
    try:
        pools = {name: _pool(value) for name, value in document["pools"].items()}
        models = {name: pool.model for name, pool in pools.items()}
        cluster = Cluster(**document["cluster"], models=models)
        return Snapshot(document["time_s"], cluster, pools, {}, document["held"], frozenset(models))
    except (KeyError, TypeError) as error:
        raise TickError(f"a tick without {error}") from None


def decided(document: dict[str, Any]) -> list[act.Action]:
    """The actions that the document holds."""
    made = []
    for entry in document["actions"]:
        values = {key: value for key, value in entry.items() if key != "action"}
        if "workers" in values:
            values["workers"] = tuple(values["workers"])
        made.append(_ACTIONS[entry["action"]](**values))
    return made


def replay(document: dict[str, Any]) -> list[act.Action]:
    """What the document's policy decides on its snapshot now."""
    snapshot = from_document(document)
    return list(named_policy(document["policy"]).decide(snapshot))


def write_tick(folder: Path, document: dict[str, Any], keep: int = 500) -> Path:
    """Write a tick under its time, whole or not at all; keep the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Two daemons may decide at the same moment; both leave their record.
    path = folder / f"tick-{document['time_s']:.3f}-{secrets.token_hex(2)}.json"
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(document, indent=1))
    os.replace(unfinished, path)
    for old in sorted(folder.glob("tick-*.json"))[:-keep]:
        old.unlink(missing_ok=True)
    return path


def read_tick(path: Path) -> dict[str, Any]:
    """Read a tick; `TickError` when it is none."""
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise TickError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TickError(f"{path}: not a tick of the scheduler ({FORMAT})")
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


def _pool(document: dict[str, Any]) -> Pool:
    model = document["model"]
    spec = ModelSpec(
        **{**model, "iteration_s": {int(k): v for k, v in model["iteration_s"].items()}}
    )
    queued = [_read(JobView, job) for job in document["queued"]]
    lookups = [
        LookupView(**{**value, "job": _read(JobView, value["job"])})
        for value in document["lookups"]
    ]
    running = [
        RunningJob(
            **{**value, "job": _read(JobView, value["job"]), "workers": tuple(value["workers"])}
        )
        for value in document["running"]
    ]
    workers = {value["worker"]: _read(Worker, value) for value in document["workers"]}
    return Pool(
        spec,
        {job.job_id: job for job in queued},
        {lookup.job.job_id: lookup for lookup in lookups},
        {job.job.job_id: job for job in running},
        workers,
        {name: workers[name] for name in document["idle"]},
        document["arrivals_s"],
        [_read(Completion, value) for value in document["completions"]],
    )


def _read(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**{field.name: values[field.name] for field in fields(kind)})
