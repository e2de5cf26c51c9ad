"""The launch options of one vLLM server: its limits, and the others that the twin models."""

from dataclasses import dataclass

from maitre.twin.errors import require, shown
from maitre.twin.limits import VllmLimits, require_count


@dataclass(frozen=True)
class ServerConfig(VllmLimits):
    """Launch options of a multi-LoRA vLLM server.

    `kv_cache_tokens` overrides the KV cache that the profile computes; `max_model_len` overrides
    the model's own context length; `metrics_scrape_s` is how often `/metrics` is scraped (0:
    never), which stalls the API server.

    Raises:
        TwinInputError: a limit is not a positive integer, or two contradict each other as they
            would for vLLM.
    """

    kv_cache_tokens: int | None = None
    max_model_len: int | None = None
    metrics_scrape_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("kv_cache_tokens", 0), ("max_model_len", 1)):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), least)
        require(
            self.metrics_scrape_s is None or self.metrics_scrape_s >= 0,
            f"metrics_scrape_s: expected a number from 0; got {shown(self.metrics_scrape_s)}",
        )
