"""The arrays that hold one simulation, and the constants it runs with.

All of a simulation's state is in arrays of records, so the loop can stop (to be given more
arrivals, or room for more requests) and go on exactly where it was. Times are seconds, step costs
milliseconds.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
Records = NDArray[Any]

# Where a request is.
UNUSED, FRONT, QUEUED, PREFILLING, DECODES = 0, 1, 2, 3, 4

# Why `advance` returned.
FINISHED, NEEDS_ARRIVALS, NEEDS_REQUESTS = 0, 1, 2

# Latency histograms: logarithmic bins.
BIN_RATIO = 1.01
FIRST_BIN_MS = 0.1
N_BINS = 1860
ADAPTER_BIN_RATIO = 1.08
N_ADAPTER_BINS = 242

# fmt: off
_COUNTS = (
    "step", "steps", "events", "running", "decoding", "waiting", "in_flight", "active", "partial",
    "free_blocks", "min_free_blocks", "kv_tokens", "run_head", "run_tail", "free_request",
    "finishes", "active_heads", "idle_heads", "next_sequence", "front_sequence",
    "on_gpu", "on_cpu", "gpu_loads", "cpu_loads", "next_sample", "next_arrival",
    "offered", "offered_tokens", "lost", "unservable", "completed", "input_done", "output_done",
    "itl_gaps", "preemptions", "prefill_tokens", "decoded_tokens",
    "max_running", "max_waiting", "max_active", "sets_hash", "series_marked",
    "front_head", "front_tail", "stalls", "merged_gaps", "waiting_active", "scan_due",
)
_REALS = (
    "now_s", "ttft_sum_s", "itl_sum_s", "busy_s", "load_s",
    "running_area", "waiting_area", "kv_area", "active_area",
    "front_free_s", "next_scrape_s", "scrape_s", "series", "scanned",
)
# fmt: on

SERVER = np.dtype([(name, np.int64) for name in _COUNTS] + [(name, np.float64) for name in _REALS])

REQUEST = np.dtype(
    [
        ("arrival_s", np.float64),
        ("visible_s", np.float64),
        ("first_token_s", np.float64),
        ("last_token_s", np.float64),
        ("sequence", np.int64),
        ("finish_step", np.int64),
        ("adapter", np.int32),
        ("input_tokens", np.int32),
        ("output_tokens", np.int32),
        ("done_tokens", np.int32),
        ("computed", np.int32),
        ("status", np.int32),
        ("next_waiting", np.int32),
        ("run_next", np.int32),
        ("run_previous", np.int32),
        ("unused", np.int32),
    ]
)

FINISH = np.dtype([("step", np.int64), ("request", np.int64)])

ADAPTER = np.dtype(
    [
        ("queue_head", np.int32),
        ("queue_tail", np.int32),
        ("running", np.int32),
        ("heap", np.int32),
        ("heap_place", np.int32),
        ("on_gpu", np.int32),
        ("on_cpu", np.int32),
        ("gpu_next", np.int32),
        ("gpu_previous", np.int32),
        ("cpu_next", np.int32),
        ("cpu_previous", np.int32),
        ("known", np.int32),
        ("waiting", np.int32),
        ("unused", np.int32),
        ("running_key", np.int64),
        ("waiting_key", np.int64),
        ("gpu_load_ms", np.float64),
        ("cpu_load_ms", np.float64),
        ("offered", np.int64),
        ("completed", np.int64),
        ("tokens_offered", np.int64),
        ("tokens_done", np.int64),
        ("ttft_sum_s", np.float64),
        ("latency_sum_s", np.float64),
    ]
)

TIMELINE = np.dtype(
    [
        ("t_s", np.float64),
        ("running", np.float64),
        ("waiting", np.float64),
        ("blocks", np.float64),
        ("active", np.float64),
        ("tokens_done", np.float64),
    ]
)


STALL = np.dtype([("from_s", np.float64), ("to_s", np.float64), ("pending", np.int64)])

TRACE = np.dtype(
    [
        ("now_s", np.float64),
        ("first_s", np.float64),
        ("load_s", np.float64),
        ("steps", np.int64),
        ("running", np.int64),
        ("decoding", np.int64),
        ("waiting", np.int64),
        ("scanned", np.float64),
        ("active", np.int64),
        ("kv_tokens", np.int64),
        ("free_blocks", np.int64),
        ("prefill", np.int64),
        ("loads", np.int64),
    ]
)

# The table in which pairs of adapter sets are marked as seen.
SERIES_TABLE = 1 << 19

# Stalls of the front that the engine has not passed yet.
MAX_STALLS = 64


class StepCost(NamedTuple):
    """What one engine step costs on this server, in ms (see `step_time`)."""

    base_ms: float
    per_token_ms: float
    small_tokens: float
    per_token_over_small_ms: float
    graph_tokens: float
    over_graph_ms: float
    per_token_over_graph_ms: float
    per_sequence_ms: float
    per_kv_token_ms: float
    per_waiting_ms: float
    lora_ms: float
    per_adapter_ms: float
    lora_per_token_ms: float
    lora_per_prefill_token_ms: float
    lora_over_graph_ms: float
    lora_per_token_over_graph_ms: float


class Limits(NamedTuple):
    """The server's limits and the run's length."""

    duration_s: float
    max_num_seqs: int
    max_num_batched_tokens: int
    max_loras: int
    max_cpu_loras: int
    block_tokens: int
    total_blocks: int
    max_model_len: int
    max_in_flight: int
    leap: bool
    sample_s: float
    ingress_s: float
    first_use_s: float
    transit_s: float
    egress_s: float
    egress_per_sequence_s: float
    scrape_interval_s: float
    series_s: float
    series_name_s: float
    trace_every: int


class Arrivals(NamedTuple):
    """A chunk of arrivals in time order; `last` when none follows."""

    arrival_s: F8
    adapter: I4
    input_tokens: I4
    output_tokens: I4
    last: bool


class Simulation(NamedTuple):
    """Everything that changes while a simulation runs.

    `server` has one row; `requests` a row for every request in flight; `adapters` one more than
    there are (the sentinel of the rings of idle loaded adapters, oldest first); `heads` two heaps
    of adapters (idle, active) by their oldest waiting request; `finishes` a heap of decoding
    requests by the step after which they are done; `new_block_at[i]` how many requests need a new
    block at steps congruent to i.
    """

    server: Records
    requests: Records
    adapters: Records
    heads: I4
    finishes: Records
    new_block_at: I8
    ttft_bins: I8
    itl_bins: I8
    adapter_bins: I4
    timeline: Records
    series_seen: NDArray[np.bool_]
    stalls: Records
    trace: Records


def _new_requests(size: int) -> Records:
    """Return `size` unused rows, linked into a free list."""
    requests = np.zeros(size, REQUEST)
    requests["next_waiting"] = np.arange(1, size + 1)
    requests["next_waiting"][-1] = -1
    return requests


def with_more_requests(sim: Simulation) -> Simulation:
    """Double the request rows; the new ones become the free list, which was empty."""
    size = len(sim.requests)
    requests = _new_requests(size * 2)
    requests[:size] = sim.requests
    finishes = np.zeros(size * 4, FINISH)
    finishes[: len(sim.finishes)] = sim.finishes
    sim.server["free_request"] = size
    return sim._replace(requests=requests, finishes=finishes)


def new_simulation(
    requests: int,
    total_blocks: int,
    block_tokens: int,
    samples: int,
    gpu_load_ms: F8,
    cpu_load_ms: F8,
    first_scrape_s: float,
    scrape_s: float,
    trace_rows: int = 0,
) -> Simulation:
    """Return a server at rest with no adapter loaded, and room for `requests` requests."""
    count = len(gpu_load_ms)
    server = np.zeros(1, SERVER)
    for name in ("run_head", "run_tail", "partial", "front_head", "front_tail"):
        server[name] = -1
    server["free_blocks"] = server["min_free_blocks"] = total_blocks
    server["front_sequence"] = -1
    server["next_scrape_s"] = first_scrape_s
    server["scrape_s"] = scrape_s
    adapters = np.zeros(count + 1, ADAPTER)
    for name in ("queue_head", "queue_tail", "heap_place"):
        adapters[name] = -1
    for name in ("gpu_next", "gpu_previous", "cpu_next", "cpu_previous"):
        adapters[name] = -1
        adapters[name][count] = count
    keys = np.random.default_rng(0).integers(0, 1 << 62, size=(2, count))
    adapters["running_key"][:count], adapters["waiting_key"][:count] = keys
    adapters["gpu_load_ms"][:count] = gpu_load_ms
    adapters["cpu_load_ms"][:count] = cpu_load_ms
    return Simulation(
        server=server,
        requests=_new_requests(requests),
        adapters=adapters,
        heads=np.zeros((2, count), np.int32),
        finishes=np.zeros(requests * 2, FINISH),
        new_block_at=np.zeros(block_tokens, np.int64),
        ttft_bins=np.zeros(N_BINS, np.int64),
        itl_bins=np.zeros(N_BINS, np.int64),
        adapter_bins=np.zeros((count, N_ADAPTER_BINS), np.int32),
        timeline=np.zeros(samples, TIMELINE),
        series_seen=np.zeros(SERIES_TABLE, np.bool_),
        stalls=np.zeros(MAX_STALLS, STALL),
        trace=np.zeros(trace_rows, TRACE),
    )
