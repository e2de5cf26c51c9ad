"""Several processes that tune together: each takes its share of the rows, all take one step.

Data parallelism over `torch.distributed` (gloo, which works on the CPU wherever the model is, or
nccl). Every worker holds the whole state and the same model; what they find out is gathered and
added up in the order of their ranks, so all of them come to the same numbers, run after run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process's place among the `size` that tune together; by default it is alone.

    `group` is the process group, `None` the default one of `torch.distributed`.
    """

    rank: int = 0
    size: int = 1
    group: "ProcessGroup | None" = None

    @classmethod
    def of_group(cls, group: "ProcessGroup | None" = None) -> "Workers":
        """Return the place of this process in a group that `torch.distributed` has made."""
        import torch.distributed as dist

        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes and speaks for all."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """Return this worker's part of some rows: neighbours; parts differ by one row at most."""
        begin, end = (len(rows) * place // self.size for place in (self.rank, self.rank + 1))
        return rows[begin:end]

    def shares(self, rows: Sequence[T]) -> list[Sequence[T]]:
        """Return the parts of all workers, by rank."""
        return [Workers(rank, self.size).share(rows) for rank in range(self.size)]

    def total(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum of all workers' parts, added in the order of ranks."""
        if self.size == 1:
            return part
        import torch.distributed as dist

        on_cpu = dist.get_backend(self.group) == "gloo"
        own = (part.detach().cpu() if on_cpu else part).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self.group)
        total = parts[0]
        for other in parts[1:]:
            total = total + other
        return total.to(part.device)

    def agreed(self, word: bool, device: torch.device) -> bool:
        """Return what the first worker decides."""
        if self.size == 1:
            return word
        said = torch.tensor(float(word and self.is_first), device=device)
        return bool(self.total(said) > 0)


ALONE = Workers()
