import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.twin.errors import TwinInputError
from maitre.twin.fitting.design import Budget, MeasuredServer, bursts, loads, warm_up
from maitre.twin.fitting.points import BASE, Point, planned_requests

SERVER = MeasuredServer(4, 16, 32, 2048, 2048, 40_000)


def test_bursts_keep_within_the_server() -> None:
    names = [f"a{i}" for i in range(4)]
    points = bursts(names, SERVER, seed=0)
    assert len({point.name for point in points}) == len(points)
    for point in points:
        assert point.requests <= SERVER.max_num_seqs
        adapters = set(point.adapters) - {BASE}
        assert len(adapters) <= SERVER.max_loras
        assert not (adapters and BASE in point.adapters), "base and adapters never share a batch"
    assert {p.name for p in points} == {p.name for p in bursts(names, SERVER, seed=1)}
    assert [p.name for p in points] != [p.name for p in bursts(names, SERVER, seed=1)]


def test_a_server_without_slots_gets_base_requests_only() -> None:
    server = MeasuredServer(0, 0, 8, 2048, 2048, 40_000)
    assert {name for p in bursts([], server, 0) for name in p.adapters} == {BASE}
    assert warm_up([]).adapters == (BASE,)


def test_validation_loads_are_other_requests_than_the_fits() -> None:
    made = {
        role: loads(["a", "b"], {1: 2.0, 2: 1.5}, 60.0, role, input_tokens=50, output_tokens=20,
                    seed=seed)
        for role, seed in (("fit", 0), ("validation", 100))
    }  # fmt: skip
    assert not {p.seed for p in made["fit"]} & {p.seed for p in made["validation"]}
    for role, points in made.items():
        assert {p.role for p in points} == {role}
        assert sum(p.duration_s for p in points) == pytest.approx(60.0)


@pytest.mark.slow
@given(st.floats(0.2, 30), st.integers(1, 400), st.integers(1, 400), st.integers(0, 99))
def test_arrivals_are_in_order_within_the_time_and_the_context(
    rate: float, inputs: int, outputs: int, seed: int
) -> None:
    point = Point("p", "load", "fit", ("a", "b"), inputs, outputs, rate_rps=rate, seed=seed)
    requests = planned_requests(point, max_total_tokens=300)
    due = [request.due_s for request in requests]
    assert due == sorted(due)
    assert all(0 <= d < point.duration_s for d in due)
    assert all(r.input_tokens >= 1 and r.output_tokens >= 1 for r in requests)
    assert all(r.input_tokens + r.output_tokens <= 300 for r in requests)
    assert requests == planned_requests(point, 300)


def test_the_rate_is_the_one_asked_for() -> None:
    point = Point("p", "load", "fit", ("a",), 50, 20, rate_rps=20.0, duration_s=200.0)
    assert len(planned_requests(point, 2048)) == pytest.approx(4000, rel=0.06)


def test_points_and_budgets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TwinInputError, match="rate_rps"):
        Point("p", "load", "fit", ("a",), 5, 5)
    with pytest.raises(TwinInputError, match="no adapters"):
        Point("p", "burst", "fit", (), 5, 5, requests=1)
    with pytest.raises(TwinInputError, match="under a minute"):
        Budget.of(30.0)
