"""Worker processes on this machine that tune one task together."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maitre.errors import UserError
from maitre.tuning.base_model import BaseModel
from maitre.tuning.workers import ALONE, Workers

Part = Callable[[BaseModel, Workers], Any]
"""What every worker does with its model; all workers get the same result."""

_PATIENCE = timedelta(minutes=30)


def with_workers(model: BaseModel, base_model: str, size: int, part: Part) -> Any:
    """Run `part` in `size` processes at once, this one the first; return its result here.

    The others load `base_model` themselves. `part` is sent to them, so it must be a module's
    function or a `functools.partial` of one. On GPUs each process takes a GPU of its own, on CPUs
    its share of the threads. Raises `UserError` when there are fewer GPUs than workers,
    `RuntimeError` when a worker fails.
    """
    if size < 1:
        raise UserError(f"workers must be at least 1, not {size}")
    if size == 1:
        return part(model, ALONE)
    kind = model.device.type
    if kind == "cuda" and torch.cuda.device_count() < size:
        raise UserError(f"{size} workers need as many GPUs, not {torch.cuda.device_count()}")
    threads = torch.get_num_threads()
    each = max(1, threads // size)
    dtype = str(model.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="maitre-workers-") as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        context = mp.get_context("spawn")
        others = [
            context.Process(
                target=_work,
                args=(rank, size, meeting, base_model, kind, dtype, each, part),
                daemon=True,
            )
            for rank in range(1, size)
        ]
        for other in others:
            other.start()
        torch.set_num_threads(each)
        try:
            with _group(0, size, meeting, kind) as workers:
                return part(model, workers)
        finally:
            torch.set_num_threads(threads)
            for other in others:
                other.join(timeout=10)
                if other.is_alive():
                    other.terminate()


def _work(
    rank: int,
    size: int,
    meeting: str,
    base_model: str,
    kind: str,
    dtype: str,
    threads: int,
    part: Part,
) -> None:
    """Do the work of a spawned worker."""
    # Ctrl-C reaches every process of a terminal; the first worker stops them all together.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    device = f"cuda:{rank}" if kind == "cuda" else kind
    model = BaseModel.load(base_model, device=device, dtype=dtype)
    with _group(rank, size, meeting, kind) as workers:
        part(model, workers)


@contextmanager
def _group(rank: int, size: int, meeting: str, kind: str) -> Iterator[Workers]:
    """Make the process group of all workers, who find each other through a file."""
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    try:
        yield Workers.of_group()
    finally:
        dist.destroy_process_group()
