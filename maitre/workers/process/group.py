"""A group of warm workers that tune one task together.

The first worker (rank 0) executes the run. Before it tunes, it opens a store at its own address,
publishes the address in the run's lease, and writes to the store what the others need to take the
same steps. Then all workers form a group of `torch.distributed`. When one of them leaves, the sums
of the others fail at once: the group ends, and the next workers resume the run's checkpoint.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import safetensors.numpy
import torch
import torch.distributed as dist

from maitre.errors import UserError
from maitre.tuning.config import TuneConfig
from maitre.tuning.task_source import task_source
from maitre.tuning.tune import tune
from maitre.tuning.workers import Workers
from maitre.workers.leases import LeaseState, LeaseStore
from maitre.workers.pool.protocol import Claim

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel
    from maitre.workers.process.run_context import TuningInputs

JOIN = timedelta(seconds=30)
"""How long the workers of a run wait for one another before the first step."""

STEP = timedelta(seconds=60)
"""How long they wait in a step for a worker that hangs; one that has ended is noticed at once."""

_LOOK_EVERY_S = 0.1


class GroupLost(BaseException):
    """A worker of the group is gone, or this worker is asked to leave it.

    Not an `Exception`: the tuner must not handle it as an error of the task.
    """


@dataclass(frozen=True)
class GroupWorkers(Workers):
    """`Workers` whose sums raise `GroupLost` when the group has ended for this worker."""

    is_leaving: Callable[[], bool] = lambda: False

    def total(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers, as `Workers.total`."""
        if self.is_leaving():
            raise GroupLost("asked to leave")
        try:
            return super().total(part)
        except RuntimeError as error:
            raise GroupLost(f"a worker of the group is gone: {_first_line(error)}") from error


@contextmanager
def lead(
    inputs: "TuningInputs",
    *,
    address: str,
    size: int,
    checkpoint: Path | None,
    publish: Callable[[str], bool],
    give_up: Callable[[str], NoReturn],
) -> Iterator[Workers]:
    """Return form the group as its first worker, at an `address` that the others can reach.

    `publish` publishes the address and port. `give_up` is called when the group does not form or
    breaks; it must raise.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    port = listener.getsockname()[1]
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=True,
            timeout=JOIN,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        _put_inputs(store, inputs, checkpoint)
        if not publish(f"{address}:{port}"):
            give_up("another worker has been given this run")
        try:
            store.wait([f"here/{rank}" for rank in range(1, size)], JOIN)
        except RuntimeError as error:
            raise GroupLost(f"not all workers came: {_first_line(error)}") from error
        with _group(store, address, 0, size, lambda: False) as workers:
            yield workers
    except GroupLost as lost:
        give_up(str(lost))


def follow(
    claim: Claim,
    leases: LeaseStore,
    model: "Callable[[], BaseModel]",
    tasks: str,
    is_leaving: Callable[[], bool],
) -> None:
    """Tune together with the first worker of a claim until the run, or the group, is over.

    Raises `GroupLost` when the first worker is gone, `UserError` when this worker has another model
    or task.
    """
    meeting = _meeting(claim, leases, is_leaving)
    if meeting is None:
        return
    host, _, port = meeting.rpartition(":")
    try:
        store = dist.TCPStore(host, int(port), is_master=False, timeout=JOIN)
        store.set(f"here/{claim.rank}", "")
        facts = json.loads(store.get("inputs"))
        init = safetensors.numpy.load(store.get("init")).get("init")
        begun = store.get("checkpoint")
    except RuntimeError as error:
        raise GroupLost(f"the first worker is gone: {_first_line(error)}") from error
    loaded, task = model(), task_source(tasks).read(facts["task"])
    if (loaded.hash, task.fingerprint()) != (facts["model_hash"], facts["task_fingerprint"]):
        raise UserError(
            f"task {task.name}: expected the model and the task of the run's first worker; this "
            "worker has others: give all workers the same settings and tasks"
        )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        if begun:
            checkpoint.write_bytes(begun)
        with _group(store, host, claim.rank, claim.size, is_leaving) as workers:
            tune(
                loaded,
                task,
                init=init,
                config=TuneConfig(**facts["config"]),
                seed=facts["seed"],
                checkpoint=checkpoint,
                workers=workers,
                tenant=facts["tenant"],
            )


def _put_inputs(store: dist.TCPStore, inputs: "TuningInputs", checkpoint: Path | None) -> None:
    """Write to the store what the other workers need to take the same steps."""
    facts = {
        "task": inputs.task.name,
        "task_fingerprint": inputs.task.fingerprint(),
        "model_hash": inputs.model.hash,
        "config": asdict(inputs.config),
        "seed": inputs.seed,
        "tenant": inputs.tenant,
    }
    begun = checkpoint.read_bytes() if checkpoint is not None and checkpoint.is_file() else b""
    init = {} if inputs.init is None else {"init": inputs.init}
    store.set("inputs", json.dumps(facts))
    store.set("init", safetensors.numpy.save(init))
    store.set("checkpoint", begun)


def _meeting(claim: Claim, leases: LeaseStore, is_leaving: Callable[[], bool]) -> str | None:
    """Wait for the address of the first worker; return `None` when the lease has changed."""
    while not is_leaving():
        lease = leases.current(claim.run_id)
        is_placed = lease is not None and lease.state is LeaseState.HELD
        if lease is None or not is_placed or lease.attempt != claim.attempt:
            return None
        if lease.meeting is not None:
            return lease.meeting
        time.sleep(_LOOK_EVERY_S)
    return None


@contextmanager
def _group(
    store: dist.Store,
    address: str,
    rank: int,
    size: int,
    is_leaving: Callable[[], bool],
) -> Iterator[Workers]:
    _keep_to_loopback(address)
    try:
        # On GPUs too: nccl only enqueues its sums, and when a worker is gone it ends the process
        # of the others after the timeout. These sums are small.
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=STEP,
        )
    except RuntimeError as error:
        raise GroupLost(f"the group did not form: {_first_line(error)}") from error
    try:
        yield GroupWorkers(rank, size, None, is_leaving)
    finally:
        dist.destroy_process_group()


def _keep_to_loopback(address: str) -> None:
    """Let gloo listen on loopback if the worker does; by default it takes the host name's address.

    Gloo reads the interface from the environment only.
    """
    if address.startswith("127."):
        names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
