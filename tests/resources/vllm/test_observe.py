import pytest

from resources.vllm.observe import ServerSight, Sight, from_dict, rates_rps, starving, to_dict


def sight(at_s: float, waiting: float, slot: float = 0.0, **requests: float) -> Sight:
    return Sight(at_s, (ServerSight("s", 4.0, waiting, slot, 0.5, 0.0, 0.0, 0.0),), requests)


def test_rates_come_from_counters_and_survive_a_restart() -> None:
    rates = rates_rps(sight(0, 0, a=10, b=50), sight(20, 0, a=30, b=4, c=2))
    assert rates == {"a": 1.0, "b": 0.2, "c": 0.1}
    with pytest.raises(ValueError, match="no time"):
        rates_rps(sight(5, 0), sight(5, 0))


def test_a_queue_that_grows_is_starvation_and_has_a_reason() -> None:
    assert starving(sight(0, 2), sight(60, 40, slot=38)) == {"s": "slots"}
    assert starving(sight(0, 2), sight(60, 40)) == {"s": "capacity"}
    assert starving(sight(0, 40), sight(60, 20)) == {}, "the queue gets shorter"
    assert starving(sight(0, 0), sight(60, 3)) == {}, "a few waiting are no starvation"


def test_a_sight_round_trips() -> None:
    seen = sight(3.0, 1.0, a=2.0)
    assert from_dict(to_dict(seen)) == seen
