"""vLLM's limits of one server: the five options that a plan decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from maitre.twin.errors import TwinInputError, require, shown

# vLLM allocates LoRA buffers for one of these ranks only (vllm.config.LoRAConfig).
BUFFER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class VllmLimits:
    """The options of a multi-LoRA vLLM server that bound its load.

    `max_loras` is the number of slots on the GPU, `max_cpu_loras` of adapters kept in CPU memory,
    `max_lora_rank` the rank that every slot is sized for.

    Raises:
        TwinInputError: a limit is not a positive integer, or two contradict each other as they
            would for vLLM.
    """

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    max_num_seqs: int = 2048
    max_num_batched_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in LIMITS:
            require_count(name, getattr(self, name), 1)
        require(
            self.max_cpu_loras >= self.max_loras,
            f"max_cpu_loras: {self.max_cpu_loras} is below max_loras {self.max_loras}; "
            "every adapter in a GPU slot is also kept in CPU memory",
        )
        require(
            self.max_num_batched_tokens >= self.max_num_seqs,
            f"max_num_batched_tokens: {self.max_num_batched_tokens} is below max_num_seqs "
            f"{self.max_num_seqs}; vLLM refuses that",
        )

    @property
    def buffer_rank(self) -> int:
        """Return the rank that vLLM is started with."""
        return buffer_rank(self.max_lora_rank)

    def limits(self) -> dict[str, int]:
        """Return the five limits by name, as a plan's `config` holds them."""
        return {name: int(getattr(self, name)) for name in LIMITS}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the limits that a plan's `config` or a list of servers holds.

        Raises:
            TwinInputError: a limit is missing, or not what the class allows.
        """
        missing = [name for name in LIMITS if name not in values]
        require(not missing, f"vLLM's limits: {', '.join(missing)} missing")
        return cls(**{name: values[name] for name in LIMITS})

    def to_flags(self) -> list[str]:
        """Return vLLM's command-line flags for a server with adapters."""
        return [
            *batch_flags(self.max_num_seqs, self.max_num_batched_tokens),
            "--enable-lora",
            f"--max-loras={self.max_loras}",
            f"--max-lora-rank={self.buffer_rank}",
            f"--max-cpu-loras={self.max_cpu_loras}",
        ]


LIMITS = tuple(field.name for field in fields(VllmLimits))


def batch_flags(max_num_seqs: int, max_num_batched_tokens: int) -> list[str]:
    """Return vLLM's flags for the limits that a server without adapters has too."""
    return [
        f"--max-num-seqs={max_num_seqs}",
        f"--max-num-batched-tokens={max_num_batched_tokens}",
    ]


def buffer_rank(rank: int) -> int:
    """Return the smallest `--max-lora-rank` that vLLM accepts and that holds `rank`.

    Raises:
        TwinInputError: vLLM serves no adapter of that rank.
    """
    for allowed in BUFFER_RANKS:
        if rank <= allowed:
            return allowed
    raise TwinInputError(f"rank {rank} is above {BUFFER_RANKS[-1]}, the largest that vLLM serves")


def require_count(name: str, value: object, least: int) -> None:
    """Raise `TwinInputError` unless `value` is a whole number of at least `least`."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    require(
        is_whole and not isinstance(value, bool) and value >= least,  # type: ignore[operator]
        f"{name}: expected a whole number of at least {least}; got {shown(value)}",
    )
