"""A run's state in one safetensors file, from which it goes on exactly as it would have gone."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from maitre.checksums import SEAL, check_digest, digest_of_arrays
from maitre.files import write_bytes
from maitre.tuning.adam import AdamState
from maitre.tuning.base_model import BaseModel
from maitre.tuning.config import RunConfig, TuningInputError
from maitre.tuning.task_run import RunState, TaskRun
from maitre.tuning.tasks import Task

_FORMAT = "maitre-checkpoint-2"


def run_identity(
    model: BaseModel, task: Task, config: RunConfig, seed: int, tenant: str | None = None
) -> str:
    """Return what must be equal for a checkpoint to belong to a run (its state has the start).

    `tenant` None means that the checkpoint is public.
    """
    settings = {key: value for key, value in asdict(config).items() if key != "max_iterations"}
    parts = {"model": model.hash, "dtype": str(model.dtype), "task": task.fingerprint()}
    parts["method"] = type(config).__name__
    if tenant is not None:
        parts["tenant"] = tenant
    return json.dumps(parts | {"config": settings, "seed": seed}, sort_keys=True)


def save_checkpoint(path: Path, state: RunState, identity: str, seconds: float) -> None:
    """Write the state; a checkpoint that is there stays whole until the new one is.

    `seconds` is the wall time of the run so far.
    """
    tensors = {
        "values": state.values,
        "adam_mean": state.adam.mean,
        "adam_square": state.adam.square,
        "best": state.best,
    }
    facts = {
        "adam_steps": state.adam.steps,
        "best_point": state.best_point,
        "curve": state.curve,
        "iteration": state.iteration,
        "reached": state.reached,
        # A cancelled run goes on when it is resumed.
        "stopped_because": None
        if state.stopped_because in ("cancelled", "max_iterations")
        else state.stopped_because,
        "seconds": seconds,
    }
    stored = {name: tensor.contiguous().cpu().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    digest = _digest(stored, identity, text)
    metadata = {"format": _FORMAT, "identity": identity, "facts": text, SEAL: digest}
    raw = safetensors.torch.save(stored, metadata)
    write_bytes(path, raw, durable=True)


def load_checkpoint(path: Path, model: BaseModel, identity: str) -> RunState | None:
    """Return the state stored at `path`, or `None` when there is no checkpoint.

    Raises `TuningInputError` when it is damaged or of another run (another model, task, seed or
    setting; only the iteration limit may differ).
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt", device=str(model.device)) as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if metadata.get("format") != _FORMAT:
            raise TuningInputError(f"{path}: is not a checkpoint of this version")
        if metadata["identity"] != identity:
            other = _difference(metadata["identity"], identity)
            raise TuningInputError(
                f"{path}: is a checkpoint of another run ({other} differs); remove it to begin anew"
            )
        found = _digest(tensors, identity, metadata["facts"])
        # A checkpoint of an earlier version has no digest.
        check_digest(metadata.get(SEAL), found, str(path), TuningInputError)
        facts = json.loads(metadata["facts"])
        point = facts["best_point"]
        return RunState(
            values=tensors["values"],
            adam=AdamState(tensors["adam_mean"], tensors["adam_square"], facts["adam_steps"]),
            best=tensors["best"],
            best_point=None if point is None else (point[0], point[1], point[2]),
            curve=tuple((i, loss, accuracy) for i, loss, accuracy in facts["curve"]),
            iteration=facts["iteration"],
            reached=facts["reached"],
            stopped_because=facts["stopped_because"],
            seconds=facts["seconds"],
        )
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise TuningInputError(f"{path}: the checkpoint is damaged or truncated") from error


def _digest(tensors: dict[str, torch.Tensor], identity: str, facts: str) -> str:
    arrays = {name: tensor.cpu().view(torch.uint8).numpy() for name, tensor in tensors.items()}
    return digest_of_arrays(arrays, identity, facts)


def _difference(one: str, other: str) -> str:
    first, second = json.loads(one), json.loads(other)
    return ", ".join(key for key in first | second if first.get(key) != second.get(key))


@dataclass(frozen=True)
class Keeper:
    """Stores a run's state now and then; does nothing without a path."""

    path: Path | None
    identity: str
    every: int

    def resume(self, model: BaseModel, run: TaskRun) -> None:
        """Put the run into the state of its checkpoint, if one exists."""
        if self.path is not None:
            run.state = load_checkpoint(self.path, model, self.identity) or run.state
            if run.is_active and run.state.iteration >= run.config.max_iterations:
                run.state.stopped_because = "max_iterations"

    def keep(self, run: TaskRun, seconds: float) -> None:
        """Store the present state."""
        if self.path is not None:
            save_checkpoint(self.path, run.state, self.identity, run.state.seconds + seconds)

    def keep_when_due(self, run: TaskRun, seconds: float) -> None:
        """Store the state if the iteration is a multiple of `every`."""
        if run.state.iteration % self.every == 0:
            self.keep(run, seconds)
