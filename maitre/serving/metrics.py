"""Parse a server's `/metrics` into typed values.

The names are those of vLLM's V1 engine (0.8 and later). A metric that a server does not report is
NaN and listed in `missing`; `required` refuses such a server.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from maitre.serving.errors import MetricsError

WAITING = "vllm:num_requests_waiting"
RUNNING = "vllm:num_requests_running"
WAITING_BY_REASON = "vllm:num_requests_waiting_by_reason"
KV_USAGE = "vllm:kv_cache_usage_perc"
KV_USAGE_OLD = "vllm:gpu_cache_usage_perc"
PREEMPTIONS = "vllm:num_preemptions_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
OUTPUT_TOKENS = "vllm:generation_tokens_total"
SUCCESSES = "vllm:request_success_total"
LORA_INFO = "vllm:lora_requests_info"
CACHE_CONFIG = "vllm:cache_config_info"
TTFT = "vllm:time_to_first_token_seconds"

READ = ("vllm:", "maitre_")
LARGEST = 1e15
"""The largest value that is read: every whole number below is exact in a float."""
REQUIRED = (RUNNING, WAITING, PROMPT_TOKENS, OUTPUT_TOKENS, SUCCESSES)


@dataclass(frozen=True)
class AdapterCounts:
    """A server's counts for one model name since the server started."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True)
class ServerMetrics:
    """The metrics of one scrape; counters start at the server's start.

    `waiting_by_reason` has the keys `capacity` (no room in the batch or the KV cache) and
    `deferred` (the adapter has no slot). `running_adapters` and `waiting_adapters` come from the
    newest report. The keys of `by_model` are the values of the label `model_name`; stock vLLM sets
    it to the server's first name for every request, adapters included.
    """

    running: float
    waiting: float
    waiting_by_reason: dict[str, float]
    kv_usage: float
    preemptions: float
    prompt_tokens: float
    output_tokens: float
    requests: float
    ttft_sum_s: float
    ttft_count: float
    running_adapters: tuple[str, ...]
    waiting_adapters: tuple[str, ...]
    max_loras: int | None
    kv_cache_tokens: int | None
    block_tokens: int | None
    by_model: dict[str, AdapterCounts]
    missing: tuple[str, ...] = field(default=())
    engines: int = 1

    def required(self, address: str, names: Collection[str] = REQUIRED) -> "ServerMetrics":
        """Return these metrics when none of `names` is missing.

        Raises:
            MetricsError: some are missing; the message names them.
        """
        absent = sorted(set(names) & set(self.missing))
        if absent:
            raise MetricsError(
                f"{address}/metrics: expected vLLM's metrics; {', '.join(absent)} missing; "
                "use vLLM 0.8 or later"
            )
        return self


@dataclass(frozen=True)
class MetricSample:
    """One sample of a Prometheus text."""

    name: str
    labels: dict[str, str]
    value: float


def parse_metrics(text: str) -> ServerMetrics:
    """Parse the Prometheus text of a server's `/metrics`.

    Raises:
        MetricsError: the text is not Prometheus text, or holds a number above 1e15.
    """
    samples = metric_samples(text)
    names = {sample.name for sample in samples}
    expected = (
        RUNNING,
        WAITING,
        WAITING_BY_REASON,
        KV_USAGE,
        PREEMPTIONS,
        PROMPT_TOKENS,
        OUTPUT_TOKENS,
        SUCCESSES,
        f"{TTFT}_sum",
        LORA_INFO,
        CACHE_CONFIG,
    )
    aliases = {KV_USAGE: KV_USAGE_OLD}
    missing = tuple(n for n in expected if n not in names and aliases.get(n) not in names)
    kv_name = KV_USAGE if KV_USAGE in names else KV_USAGE_OLD
    running, waiting, max_loras = _adapters(samples)
    caches = _caches(samples)
    cache_tokens = [blocks * size for blocks, size in caches.values() if blocks and size]
    return ServerMetrics(
        running=_sum(samples, RUNNING),
        waiting=_sum(samples, WAITING),
        waiting_by_reason=_by_label(samples, WAITING_BY_REASON, "reason"),
        kv_usage=_kv_usage(samples, kv_name),
        preemptions=_sum(samples, PREEMPTIONS),
        prompt_tokens=_sum(samples, PROMPT_TOKENS),
        output_tokens=_sum(samples, OUTPUT_TOKENS),
        requests=_sum(samples, SUCCESSES),
        ttft_sum_s=_sum(samples, f"{TTFT}_sum"),
        ttft_count=_sum(samples, f"{TTFT}_count"),
        running_adapters=running,
        waiting_adapters=waiting,
        max_loras=max_loras,
        kv_cache_tokens=sum(cache_tokens) or None,
        block_tokens=next((size for _, size in caches.values()), None),
        engines=max(len({_engine(s) for s in samples if s.name == RUNNING}), 1),
        by_model=_by_model(samples),
        missing=missing,
    )


def metric_samples(text: str) -> list[MetricSample]:
    """Return the samples of a Prometheus text; those that are not finite are left out.

    Raises:
        MetricsError: the text is not Prometheus text, or holds a number above 1e15.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        samples = [
            MetricSample(sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise MetricsError(
            f"expected Prometheus text; got {' '.join(str(error).split())[:200]}"
        ) from error
    for sample in samples:
        if sample.name.startswith(READ) and LARGEST < abs(sample.value) < math.inf:
            raise MetricsError(f"{sample.name}: expected at most {LARGEST:g}; got {sample.value:g}")
    return [sample for sample in samples if math.isfinite(sample.value)]


def _whole_number(text: str) -> int | None:
    """Return a label's whole number; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def _sum(samples: list[MetricSample], name: str) -> float:
    values = [sample.value for sample in samples if sample.name == name]
    return math.fsum(values) if values else math.nan


def _by_label(samples: list[MetricSample], name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == name:
            key = sample.labels.get(label, "")
            found[key] = found.get(key, 0.0) + sample.value
    return found


def _engine(sample: MetricSample) -> str:
    """Return the engine that a sample is of: one address may serve several (data parallel)."""
    return sample.labels.get("engine", "")


def _kv_usage(samples: list[MetricSample], name: str) -> float:
    """Return the used part of all engines' KV cache: the mean, weighted by their blocks."""
    used = [sample for sample in samples if sample.name == name]
    if not used:
        return math.nan
    caches = _caches(samples)
    blocks = [caches.get(_engine(sample), (None, None))[0] or 0 for sample in used]
    weights = blocks if all(blocks) else [1] * len(used)
    weighted = math.fsum(w * sample.value for w, sample in zip(weights, used, strict=True))
    return weighted / sum(weights)


def _adapters(samples: list[MetricSample]) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    """Return running adapters, waiting adapters and slots of the newest `lora_requests_info`.

    The value of that series is the time of the report. Adapters are those of all engines, slots
    those of one.
    """
    newest: dict[str, MetricSample] = {}
    for sample in samples:
        if sample.name == LORA_INFO:
            known = newest.get(_engine(sample))
            if known is None or sample.value > known.value:
                newest[_engine(sample)] = sample
    slots = [sample.labels.get("max_lora", "") for sample in newest.values()]
    return (
        _names(newest.values(), "running_lora_adapters"),
        _names(newest.values(), "waiting_lora_adapters"),
        next((slot for text in slots if (slot := _whole_number(text)) is not None), None),
    )


def _names(reports: Iterable[MetricSample], label: str) -> tuple[str, ...]:
    parts = {part.strip() for report in reports for part in report.labels.get(label, "").split(",")}
    return tuple(sorted(parts - {""}))


def _caches(samples: list[MetricSample]) -> dict[str, tuple[int | None, int | None]]:
    """Return each engine's number of KV cache blocks and tokens per block."""
    found: dict[str, tuple[int | None, int | None]] = {}
    for sample in samples:
        if sample.name == CACHE_CONFIG:
            blocks = sample.labels.get("num_gpu_blocks", "")
            size = sample.labels.get("block_size", "")
            found.setdefault(
                _engine(sample),
                (
                    _whole_number(blocks),
                    _whole_number(size),
                ),
            )
    return found


def _by_model(samples: list[MetricSample]) -> dict[str, AdapterCounts]:
    requests = _by_label(samples, SUCCESSES, "model_name")
    prompts = _by_label(samples, PROMPT_TOKENS, "model_name")
    outputs = _by_label(samples, OUTPUT_TOKENS, "model_name")
    return {
        name: AdapterCounts(requests.get(name, 0.0), prompts.get(name, 0.0), outputs.get(name, 0.0))
        for name in sorted(requests.keys() | prompts.keys() | outputs.keys())
    }
