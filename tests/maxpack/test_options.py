"""Configurations on offer for profiles of few slots, small batches or too little memory."""

import numpy as np
import pytest

from maitre.maxpack.card import MaxpackError
from maitre.maxpack.design import design
from maitre.maxpack.options import SLOTS, ServerOptions, default_lengths, slot_counts
from maitre.maxpack.recommend import recommend_server
from maitre.twin import AdapterLoad, ServerProfile

CPU = ServerProfile.load("cpu/smollm2-135m")


def with_slots(low: int, high: int) -> ServerProfile:
    valid = CPU.valid.model_copy(update={"max_loras": (low, high)})
    return CPU.model_copy(update={"valid": valid})


@pytest.mark.parametrize(
    ("low", "high", "offered"),
    [(1, 1, (1,)), (4, 4, (4,)), (0, 5, (5,)), (3, 11, (3, 8, 10, 11)), (8, 384, SLOTS)],
)
def test_the_ends_of_the_measured_slots_are_on_offer(
    low: int, high: int, offered: tuple[int, ...]
) -> None:
    assert slot_counts(with_slots(low, high)) == offered


@pytest.mark.parametrize("slots", [1, 4])
def test_a_profile_of_few_slots_has_options_designs_and_recommendations(slots: int) -> None:
    profile = with_slots(slots, slots)
    assert ServerOptions.of(profile, default_lengths()).max_loras.tolist() == [slots]
    assert {config.max_loras for config, _ in design(profile, 8)} == {slots}
    loads = [AdapterLoad(f"a{i}", 16, 0.01) for i in range(6)]
    assert recommend_server(loads, profile).config.max_loras == slots


def test_what_cannot_start_is_told() -> None:
    memory = CPU.memory.model_copy(update={"base_tokens": 100.0})
    small = CPU.model_copy(update={"memory": memory})
    with pytest.raises(MaxpackError, match=r"cpu/smollm2-135m.*starts.*max_model_len"):
        ServerOptions.of(small, default_lengths())
    for use in (lambda p: ServerOptions.of(p, default_lengths()), lambda p: design(p, 2)):
        with pytest.raises(MaxpackError, match=r"valid.max_loras"):
            use(with_slots(0, 0))


def test_batches_are_as_large_as_the_profile_was_measured_with() -> None:
    options = ServerOptions.of(CPU, default_lengths())
    assert options.limits[:, 2:].tolist() == [[32, 256]] * len(options)
    config = options.config(0, 3)
    assert (config.max_num_seqs, config.max_num_batched_tokens) == (32, 256)
    assert {c.max_num_batched_tokens for c, _ in design(CPU, 4)} == {256}
    assert CPU.range_warnings(config, 3, 1.0, 300.0) == []
    h100 = ServerProfile.load("h100-64gb/llama-3.1-8b-instruct")
    assert np.all(ServerOptions.of(h100, default_lengths()).limits[:, 2:] == 2048)
