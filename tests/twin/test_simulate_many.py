import pytest

from maitre.twin import AdapterLoad, ServerConfig, Workload, simulate, simulate_many


def runs(sharegpt):
    return [
        (
            ServerConfig(4, 8, 16),
            Workload([AdapterLoad(f"a{i}", 8, 0.05 * size) for i in range(8)], sharegpt, 60.0),
        )
        for size in range(1, 5)
    ]


def test_many_is_each_in_order_with_progress(profile, sharegpt):
    seen = []
    many = simulate_many(
        profile, runs(sharegpt), seed=7, workers=1, progress=lambda *at: seen.append(at)
    )
    one = [simulate(profile, *run, seed=7 + i) for i, run in enumerate(runs(sharegpt))]
    assert [a.summary() for a in many] == [b.summary() for b in one]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.slow
def test_processes_give_the_same_and_can_reduce(profile, sharegpt):
    reduced = simulate_many(profile, runs(sharegpt), seed=7, workers=2, reduce=throughput)
    alone = simulate_many(profile, runs(sharegpt), seed=7, workers=1)
    assert reduced == [result.throughput_tps for result in alone]


def throughput(result):
    return result.throughput_tps
