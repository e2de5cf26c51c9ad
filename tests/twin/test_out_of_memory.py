import pytest

from maitre.twin import AdapterLoad, Lengths, ServerConfig, ServerProfile, Workload, simulate

LLAMA = "h100-64gb/llama-3.1-8b-instruct"
QWEN = "h100-64gb/qwen-2.5-7b-instruct"


@pytest.mark.parametrize(
    ("name", "slots", "rank", "starts"),
    [
        (LLAMA, 192, 16, True),
        (LLAMA, 256, 16, False),
        (LLAMA, 384, 8, True),
        (LLAMA, 96, 32, True),
        (LLAMA, 128, 32, False),
        (QWEN, 384, 16, True),
        (QWEN, 224, 32, True),
        (QWEN, 256, 32, False),
    ],
)
def test_start_up_is_refused_where_vllm_refused_it(name, slots, rank, starts):
    profile = ServerProfile.load(name)
    assert (profile.kv_cache_tokens(slots, rank) is not None) == starts
    workload = Workload([AdapterLoad("a", 8, 1.0)], Lengths.fixed(50, 50), 30.0)
    result = simulate(profile, ServerConfig(slots, slots, rank), workload)
    assert result.out_of_memory != starts
    if not starts:
        assert result.out_of_memory_reason
        assert result.completed == 0
        assert result.starved
        assert result.offered > 0


def test_kv_cache_shrinks_with_slots_and_rank():
    profile = ServerProfile.load(LLAMA)
    sizes = [profile.kv_cache_tokens(slots, 16) for slots in (8, 16, 32, 64, 128, 192)]
    assert sizes == sorted(sizes, reverse=True)
    assert profile.kv_cache_tokens(64, 32) < profile.kv_cache_tokens(64, 16)
    assert all(size % profile.memory.block_tokens == 0 for size in sizes)
