"""The request rate that a server sustains, by its twin."""

from maitre.twin.fitting.design import MOST_RPS, MeasuredServer
from maitre.twin.lengths import Lengths
from maitre.twin.profile import ServerProfile
from maitre.twin.server import ServerConfig
from maitre.twin.simulate import simulate
from maitre.twin.workload import AdapterLoad, Workload

SUSTAINED_RATIO = 0.95
TRIED_DURATION_S = 1200.0
HALVINGS = 6


def server_config(server: MeasuredServer, adapters: int) -> ServerConfig:
    """Return the measured server as the twin takes it."""
    slots = max(server.max_loras, 1)
    return ServerConfig(
        max_loras=slots,
        max_cpu_loras=max(slots, adapters),
        max_lora_rank=max(server.max_lora_rank, 1),
        max_num_seqs=server.max_num_seqs,
        max_num_batched_tokens=max(server.max_num_batched_tokens, server.max_num_seqs),
        kv_cache_tokens=server.kv_cache_tokens,
        max_model_len=server.max_model_len,
        metrics_scrape_s=0.0,
    )


def sustained_rps(
    profile: ServerProfile,
    server: MeasuredServer,
    adapters: int,
    input_tokens: int,
    output_tokens: int,
    seed: int = 0,
) -> float:
    """Return the largest rate (rps) at which the twin delivers 95 % of the load, by bisection.

    At most `MOST_RPS`.
    """
    lengths = Lengths.fixed(input_tokens, output_tokens)

    def sustained(rate: float) -> bool:
        loads = [
            AdapterLoad(f"a{i}", max(server.max_lora_rank, 1), rate / max(adapters, 1))
            for i in range(max(adapters, 1))
        ]
        found = simulate(
            profile,
            server_config(server, adapters),
            Workload(loads, lengths, TRIED_DURATION_S),
            seed,
        )
        return found.throughput_ratio >= SUSTAINED_RATIO

    low, high = 0.0, 0.25
    while sustained(high):
        if high >= MOST_RPS:
            return MOST_RPS
        low, high = high, min(2.0 * high, MOST_RPS)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sustained(middle) else (low, middle)
    return max(low, high / 4)
