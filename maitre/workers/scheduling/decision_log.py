"""The log of the scheduler's decisions: one JSON file, a tick, for each round that did something.

A tick holds all that the policy saw. Policies are deterministic: asked again with the same snapshot
a policy must decide the same (`maitre cluster replay TICK.json`).
"""

import json
import secrets
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from maitre import files
from maitre.errors import UserError, reading
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
KEPT_TICKS = 500
KEPT_BYTES = 64 * 1024 * 1024
"""The ticks that are kept are the newest: at most so many, and at most so many bytes of them."""
_ACTIONS = {
    kind.__name__: kind
    for kind in (
        act.StartWorkers, act.LoadModel, act.StopWorker, act.StartLookup, act.StartJob,
        act.ResizeJob, act.PreemptJob, act.RejectJob, act.WaitUntil,
    )
}  # fmt: skip
_SHAPE_ERRORS = (KeyError, TypeError, AttributeError, ValueError)
"""What reading raises where the document has another shape."""
_PARTS = ("policy", "time_s", "held", "cluster", "pools", "actions")


class TickError(UserError):
    """A file is not a tick; the message says which and why."""


@dataclass(frozen=True)
class Decision:
    """What a policy saw in one round of the scheduler, and what it decided.

    `done` reports what the round carried out, one line each.
    """

    snapshot: Snapshot
    policy: str
    actions: tuple[act.Action, ...]
    done: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON types."""
        cluster = self.snapshot.cluster
        return {
            "format": FORMAT,
            "policy": self.policy,
            "time_s": self.snapshot.time_s,
            "held": self.snapshot.held,
            "cluster": {
                "gpus": cluster.gpus,
                "gpu_price_per_hour": cluster.gpu_price_per_hour,
                "failures_per_worker_hour": cluster.failures_per_worker_hour,
            },
            "pools": {name: _pool_document(pool) for name, pool in self.snapshot.pools.items()},
            "actions": [{"action": type(a).__name__, **asdict(a)} for a in self.actions],
            "done": list(self.done),
        }

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Read what `to_json` returns; raise `TickError` for anything else."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise TickError(f"not a tick of the scheduler: expected the format {FORMAT}")
        if missing := [part for part in _PARTS if part not in document]:
            raise TickError(f"not a tick of the scheduler: no {', '.join(missing)}")
        # Ticks of earlier versions have no `done`.
        done = document.get("done", [])
        if not isinstance(done, list) or not all(isinstance(line, str) for line in done):
            raise TickError(f"not a tick of the scheduler: done: expected texts; got {done!r:.80}")
        return cls(_snapshot(document), str(document["policy"]), _actions(document), tuple(done))

    def decide_again(self) -> tuple[act.Action, ...]:
        """Return what the policy of that name decides on the same snapshot now."""
        return tuple(named_policy(self.policy).decide(self.snapshot))


def write_tick(
    folder: Path, decision: Decision, keep: int = KEPT_TICKS, keep_bytes: int = KEPT_BYTES
) -> Path:
    """Write a decision under its time; remove the oldest ticks beyond those to keep."""
    # Two daemons may decide at the same moment; each leaves its tick.
    path = folder / f"tick-{decision.snapshot.time_s:.3f}-{secrets.token_hex(2)}.json"
    files.write_text(path, json.dumps(decision.to_json(), separators=(",", ":")))
    _remove_oldest(folder, keep, keep_bytes)
    return path


def read_tick(path: Path) -> Decision:
    """Read a tick; raise `TickError` naming the file where it cannot be read or is not a tick."""
    if path.is_dir():
        raise TickError(f"{path} is a folder; give one of the ticks in it")
    with reading(path, TickError):
        document = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Decision.from_json(document)
    except TickError as error:
        raise TickError(f"{path}: {error}") from None


def _remove_oldest(folder: Path, keep: int, keep_bytes: int) -> None:
    """Remove ticks until the newest `keep` are left, of `keep_bytes` together; one always stays."""
    total_bytes = 0
    for count, tick in enumerate(sorted(folder.glob("tick-*.json"), reverse=True), start=1):
        try:
            total_bytes += tick.stat().st_size
        except FileNotFoundError:
            # Another daemon has removed it.
            continue
        if count > 1 and (count > keep or total_bytes > keep_bytes):
            tick.unlink(missing_ok=True)


def _snapshot(document: dict[str, Any]) -> Snapshot:
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
    except _SHAPE_ERRORS as error:
        raise _not_a_tick("its snapshot", error) from None


def _actions(document: dict[str, Any]) -> tuple[act.Action, ...]:
    made: list[act.Action] = []
    try:
        for entry in document["actions"]:
            values = {key: value for key, value in entry.items() if key != "action"}
            made.append(_read(_ACTIONS[entry["action"]], values))
    except _SHAPE_ERRORS as error:
        raise _not_a_tick("its actions", error) from None
    return tuple(made)


def _not_a_tick(part: str, error: Exception) -> TickError:
    """Return the error that names the part of the document, and the field where that is known."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return TickError(f"not a tick: {part}: {field}: {first['msg']}")
    missing = isinstance(error, KeyError)
    return TickError(f"not a tick: {part}: {'no ' if missing else ''}{error}")


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
    """Return the value as an instance of `kind`; pydantic's error is a `ValueError`."""
    return _adapter(kind).validate_python(value)


@lru_cache(maxsize=32)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
