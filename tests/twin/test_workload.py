import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.twin import AdapterLoad, Burstiness, Lengths, Workload
from maitre.twin.arrivals import arrival_chunks

LOADS = [AdapterLoad("slow", 8, 0.5), AdapterLoad("fast", 16, 4.0), AdapterLoad("none", 8, 0.0)]


def arrivals(workload: Workload, seed: int = 0) -> pd.DataFrame:
    chunks = list(arrival_chunks(workload, seed))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return pd.DataFrame(
        {
            "arrival_s": np.concatenate([chunk.arrival_s for chunk in chunks]),
            "adapter": np.concatenate([chunk.adapter for chunk in chunks]),
            "input_tokens": np.concatenate([chunk.input_tokens for chunk in chunks]),
            "output_tokens": np.concatenate([chunk.output_tokens for chunk in chunks]),
        }
    )


@pytest.mark.parametrize(
    "burst",
    [
        Burstiness(),
        Burstiness("gamma", cv=4.0),
        Burstiness("gamma", cv=0.5),
        Burstiness("mmpp", on_share=0.2, on_s=30.0, off_rate_share=0.1),
    ],
)
def test_every_kind_of_arrivals_has_the_mean_rate(sharegpt, burst):
    found = arrivals(Workload(LOADS, sharegpt, 40_000.0, burstiness=burst))
    assert found["arrival_s"].is_monotonic_increasing
    assert found["arrival_s"].between(0, 40_000.0).all()
    counts = found["adapter"].value_counts()
    assert counts.get(2, 0) == 0
    assert counts[0] / 40_000.0 == pytest.approx(0.5, rel=0.12)
    assert counts[1] / 40_000.0 == pytest.approx(4.0, rel=0.12)


def test_burstiness_is_what_was_asked_for(sharegpt):
    one = [AdapterLoad("a", 8, 2.0)]
    for burst, cv in ((Burstiness(), 1.0), (Burstiness("gamma", cv=3.0), 3.0)):
        gaps = np.diff(arrivals(Workload(one, sharegpt, 30_000.0, burstiness=burst))["arrival_s"])
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    calm = arrivals(Workload(one, sharegpt, 30_000.0))
    burst = arrivals(Workload(one, sharegpt, 30_000.0, burstiness=Burstiness("mmpp")))
    minutes = np.arange(0, 30_001, 60)
    spread = [np.histogram(frame["arrival_s"], minutes)[0].var() for frame in (calm, burst)]
    assert spread[1] > 5 * spread[0]


def test_arrivals_do_not_depend_on_the_server_and_follow_the_seed(sharegpt):
    workload = Workload(LOADS, sharegpt, 600.0)
    pd.testing.assert_frame_equal(arrivals(workload, 1), arrivals(workload, 1))
    assert not arrivals(workload, 1).equals(arrivals(workload, 2))


def test_an_adapters_own_lengths(sharegpt):
    loads = [
        AdapterLoad("own", 8, 5.0, mean_input_tokens=50, mean_output_tokens=400),
        AdapterLoad("plain", 8, 5.0),
    ]
    found = arrivals(Workload(loads, sharegpt, 4000.0)).groupby("adapter").mean()
    assert found.loc[0, "input_tokens"] == pytest.approx(50, rel=0.08)
    assert found.loc[0, "output_tokens"] == pytest.approx(400, rel=0.05)
    assert found.loc[1, "input_tokens"] == pytest.approx(222.4, rel=0.05)


def test_a_trace_is_replayed_as_it_is():
    frame = pd.DataFrame(
        {
            "arrival_s": [3.0, 1.0, 2.0],
            "adapter": ["b", "a", "b"],
            "input_tokens": [30, 10, 20],
            "output_tokens": [3, 1, 2],
        }
    )
    workload = Workload.from_trace(frame, ranks={"a": 8, "b": 16})
    assert [load.rank for load in workload.adapters] == [8, 16]
    found = arrivals(workload)
    assert found["arrival_s"].tolist() == [1.0, 2.0, 3.0]
    assert found["adapter"].tolist() == [0, 1, 1]
    assert found["input_tokens"].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("arrivals_s", "duration_s", "first_s"),
    [
        ([1700158546.0, 1700158548.0], None, 0.0),
        ([1700158546.0, 1700158548.0], 60.0, 0.0),
        ([20_000.0, 20_030.0], None, 0.0),
        ([600.0, 630.0], None, 600.0),
        ([600.0, 630.0], 900.0, 600.0),
        ([20_000.0, 90_000.0], None, 20_000.0),
    ],
)
def test_arrivals_on_another_clock_are_shifted_to_the_first(arrivals_s, duration_s, first_s):
    frame = pd.DataFrame({"arrival_s": arrivals_s, "adapter": "a"})
    frame = frame.assign(input_tokens=5, output_tokens=5)
    workload = Workload.from_trace(frame, duration_s=duration_s)
    assert workload.trace.arrival_s[0] == first_s
    assert np.ptp(workload.trace.arrival_s) == np.ptp(arrivals_s)
    assert workload.duration_s == duration_s or first_s + np.ptp(arrivals_s)


def test_mean_tokens_weigh_each_adapter_by_its_rate(sharegpt):
    loads = [AdapterLoad("long", 8, 3.0, 30_000, 300), AdapterLoad("plain", 8, 1.0)]
    inputs, outputs = Workload(loads, sharegpt).mean_tokens()
    assert inputs == pytest.approx((3 * 30_000 + 222.4) / 4, rel=1e-4)
    assert outputs == pytest.approx((3 * 300 + 195.0) / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("arrival_s", -1.0, r"trace\.arrival_s: row 1"),
        ("input_tokens", 0, r"trace\.input_tokens: row 1"),
        ("output_tokens", float("nan"), r"trace\.output_tokens: row 1"),
        ("output_tokens", "many", r"trace\.output_tokens"),
        ("output_tokens", 1.5, r"trace\.output_tokens: row 1: .* got 1\.5"),
        ("output_tokens", 1e300, r"trace\.output_tokens: row 1: .* got 1e\+300"),
    ],
)
def test_a_bad_trace_row_is_named(column, value, message):
    frame = pd.DataFrame(
        {"arrival_s": [0.0, 1.0], "adapter": "a", "input_tokens": 5, "output_tokens": 5}
    ).astype(object)
    frame.loc[1, column] = value
    with pytest.raises(ValueError, match=message):
        Workload.from_trace(frame)


def test_a_missing_trace_column_is_named():
    with pytest.raises(ValueError, match="no column 'adapter'"):
        Workload.from_trace(pd.DataFrame({"arrival_s": [0.0]}))


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ([], "adapters: there are none"),
        ([AdapterLoad("a", 8, -0.1)], "rate_rps"),
        ([AdapterLoad("a", 8, float("nan"))], "rate_rps"),
        ([AdapterLoad("a", 0, 0.1)], "rank"),
        ([AdapterLoad("a", "big", 0.1)], "rank"),
        ([AdapterLoad("a", 8, 0.1), AdapterLoad("a", 8, 0.1)], "given twice"),
        ([AdapterLoad("a", 8, 0.1, mean_input_tokens=0)], "mean_input_tokens"),
    ],
)
def test_a_bad_adapter_is_named(sharegpt, loads, message):
    with pytest.raises(ValueError, match=message):
        Workload(loads, sharegpt)


@settings(max_examples=20, deadline=None)
@given(duration_s=st.one_of(st.floats(max_value=0.0), st.just(float("nan"))))
def test_a_bad_duration_is_named(duration_s):
    with pytest.raises(ValueError, match="duration_s"):
        Workload(LOADS, Lengths.fixed(5, 5), duration_s)
