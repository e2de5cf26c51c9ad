"""The arrays that hold one simulation, and the constants it runs with.

All of a simulation's state is in arrays, so the loop can stop (to be given more arrivals, or a
larger request pool) and go on exactly where it was. Times are seconds, step costs milliseconds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
I4 = NDArray[np.int32]

# Scalars of the running simulation: indices into State.whole (int64) and State.real (float64).
STEP, RUNNING, DECODING, WAITING, FREE_BLOCKS, KV_TOKENS = 0, 1, 2, 3, 4, 5
RUN_HEAD, RUN_TAIL, POOL_FREE, PARTIAL, FINISH_HEAP = 6, 7, 8, 9, 10
ACTIVE, HEAP_ACTIVE, HEAP_IDLE, NEXT_SEQ, FRONT_SEQ = 11, 12, 13, 14, 15
GPU_COUNT, CPU_COUNT, NEXT_SAMPLE, IN_FLIGHT, NEXT_ARRIVAL = 16, 17, 18, 19, 20
OFFERED, OFFERED_TOKENS, LOST, UNSERVABLE, COMPLETED = 21, 22, 23, 24, 25
INPUT_DONE, OUTPUT_DONE, PREEMPTIONS, STEPS, EVENTS = 26, 27, 28, 29, 30
LOADS_GPU, LOADS_CPU, MAX_RUNNING, MAX_WAITING, MAX_ACTIVE = 31, 32, 33, 34, 35
PREFILL_TOKENS, DECODED_TOKENS, MIN_FREE_BLOCKS, ITL_GAPS, PRESENT = 36, 37, 38, 39, 40
N_WHOLE = 41

NOW, TTFT_SUM, ITL_SUM, BUSY, RUNNING_AREA, WAITING_AREA = 0, 1, 2, 3, 4, 5
KV_AREA, ACTIVE_AREA, LOAD_TIME, LAST_ARRIVAL, API_FREE = 6, 7, 8, 9, 10
N_REAL = 11

# Where a pooled request is.
UNUSED, QUEUED, PREFILLING, DECODES = 0, 1, 2, 3

# Why `advance` returned.
FINISHED, NEEDS_ARRIVALS, NEEDS_POOL = 0, 1, 2

# Latency histograms: logarithmic bins.
BIN_RATIO = 1.01
FIRST_BIN_MS = 0.1
N_BINS = 1860
ADAPTER_BIN_RATIO = 1.08
N_ADAPTER_BINS = 242

TIMELINE_COLUMNS = 6


class StepCost(NamedTuple):
    """What one engine step costs on this server, in ms (see `step_time`)."""

    floor_ms: float
    base_ms: float
    per_sequence_ms: float
    per_kv_token_ms: float
    lora_ms: float
    per_adapter_ms: float
    lora_per_sequence_ms: float
    prefill_ms: float
    per_prefill_token_ms: float


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
    egress_s: float


class Arrivals(NamedTuple):
    """A chunk of arrivals in time order; `last` when none follows."""

    arrival_s: F8
    adapter: I4
    input_tokens: I4
    output_tokens: I4
    last: bool


class Pool(NamedTuple):
    """One row a request in flight."""

    arrival_s: F8
    first_token_s: F8
    last_token_s: F8
    sequence: I8
    finish_step: I8
    input_tokens: I4
    output_tokens: I4
    done_tokens: I4
    computed: I4
    adapter: I4
    next_waiting: I4
    run_next: I4
    run_previous: I4
    status: I4
    heap_step: I8
    heap_request: I4


class Adapters(NamedTuple):
    """One row an adapter."""

    queue_head: I4
    queue_tail: I4
    running: I4
    heap_kind: I4
    heap_place: I4
    heap_active: I4
    heap_idle: I4
    on_gpu: I4
    on_cpu: I4
    gpu_next: I4
    gpu_previous: I4
    cpu_next: I4
    cpu_previous: I4
    load_gpu_ms: F8
    load_cpu_ms: F8
    offered: I8
    completed: I8
    tokens_offered: I8
    tokens_done: I8
    ttft_sum_s: F8
    latency_sum_s: F8
    ttft_bins: I4


class State(NamedTuple):
    """Everything that changes during a simulation, apart from the pool."""

    whole: I8
    real: F8
    new_block_at: I8
    ttft_bins: I8
    itl_bins: I8
    timeline: F8
    adapters: Adapters


def new_pool(size: int) -> Pool:
    """An empty pool of `size` requests, its free list threaded through `next_waiting`."""
    next_free = np.arange(1, size + 1, dtype=np.int32)
    next_free[-1] = -1
    return Pool(
        arrival_s=np.zeros(size),
        first_token_s=np.zeros(size),
        last_token_s=np.zeros(size),
        sequence=np.zeros(size, np.int64),
        finish_step=np.zeros(size, np.int64),
        input_tokens=np.zeros(size, np.int32),
        output_tokens=np.zeros(size, np.int32),
        done_tokens=np.zeros(size, np.int32),
        computed=np.zeros(size, np.int32),
        adapter=np.zeros(size, np.int32),
        next_waiting=next_free,
        run_next=np.full(size, -1, np.int32),
        run_previous=np.full(size, -1, np.int32),
        status=np.zeros(size, np.int32),
        heap_step=np.zeros(size * 2, np.int64),
        heap_request=np.zeros(size * 2, np.int32),
    )


def grow_pool(pool: Pool, state: State) -> Pool:
    """Twice the pool, the old rows where they were; the new rows join the (empty) free list."""
    size = len(pool.arrival_s)
    grown = new_pool(size * 2)
    for old, new in zip(pool, grown, strict=True):
        new[: len(old)] = old
    state.whole[POOL_FREE] = size
    return grown


def new_state(
    adapters: int,
    total_blocks: int,
    block_tokens: int,
    samples: int,
    load_gpu_ms: F8,
    load_cpu_ms: F8,
) -> State:
    """A server at rest with no adapter loaded."""
    whole = np.zeros(N_WHOLE, np.int64)
    whole[[RUN_HEAD, RUN_TAIL, PARTIAL]] = -1
    whole[FREE_BLOCKS] = whole[MIN_FREE_BLOCKS] = total_blocks
    whole[FRONT_SEQ] = -1
    # Linked lists of loaded adapters: row `adapters` is the sentinel, next = oldest.
    ring = np.full(adapters + 1, -1, np.int32)
    ring[adapters] = adapters
    minus = np.full(adapters, -1, np.int32)
    return State(
        whole=whole,
        real=np.zeros(N_REAL),
        new_block_at=np.zeros(block_tokens, np.int64),
        ttft_bins=np.zeros(N_BINS, np.int64),
        itl_bins=np.zeros(N_BINS, np.int64),
        timeline=np.zeros((samples, TIMELINE_COLUMNS)),
        adapters=Adapters(
            queue_head=minus.copy(),
            queue_tail=minus.copy(),
            running=np.zeros(adapters, np.int32),
            heap_kind=np.zeros(adapters, np.int32),
            heap_place=minus.copy(),
            heap_active=np.zeros(adapters, np.int32),
            heap_idle=np.zeros(adapters, np.int32),
            on_gpu=np.zeros(adapters, np.int32),
            on_cpu=np.zeros(adapters, np.int32),
            gpu_next=ring.copy(),
            gpu_previous=ring.copy(),
            cpu_next=ring.copy(),
            cpu_previous=ring.copy(),
            load_gpu_ms=np.ascontiguousarray(load_gpu_ms, np.float64),
            load_cpu_ms=np.ascontiguousarray(load_cpu_ms, np.float64),
            offered=np.zeros(adapters, np.int64),
            completed=np.zeros(adapters, np.int64),
            tokens_offered=np.zeros(adapters, np.int64),
            tokens_done=np.zeros(adapters, np.int64),
            ttft_sum_s=np.zeros(adapters),
            latency_sum_s=np.zeros(adapters),
            ttft_bins=np.zeros((adapters, N_ADAPTER_BINS), np.int32),
        ),
    )
