"""How one vLLM server is started: the limits that the twin models."""

from dataclasses import dataclass

from maitre.twin.errors import require


@dataclass(frozen=True)
class ServerConfig:
    """Launch options of a multi-LoRA vLLM server.

    `max_loras` is the number of GPU slots, `max_cpu_loras` of adapters kept in CPU memory,
    `max_lora_rank` the rank every slot is sized for. `kv_cache_tokens` overrides what the
    profile says that the GPU has room for; `max_model_len` the model's own context length;
    `metrics_scrape_s` how often /metrics is scraped (0: never), which stalls the API server.

    Raises:
        TwinInputError: a limit is no positive integer, or two contradict each other as they
            would for vLLM.
    """

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    max_num_seqs: int = 2048
    max_num_batched_tokens: int = 2048
    kv_cache_tokens: int | None = None
    max_model_len: int | None = None
    metrics_scrape_s: float | None = None

    def __post_init__(self) -> None:
        for field in (
            "max_loras",
            "max_cpu_loras",
            "max_lora_rank",
            "max_num_seqs",
            "max_num_batched_tokens",
        ):
            self._require_count(field, 1)
        for field, least in (("kv_cache_tokens", 0), ("max_model_len", 1)):
            if getattr(self, field) is not None:
                self._require_count(field, least)
        require(
            self.metrics_scrape_s is None or self.metrics_scrape_s >= 0,
            f"metrics_scrape_s: {self.metrics_scrape_s!r} is below 0",
        )
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

    def _require_count(self, field: str, least: int) -> None:
        value = getattr(self, field)
        whole = (
            isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        )
        require(
            whole and value >= least,
            f"{field}: {value!r} is not a whole number of at least {least}",
        )
