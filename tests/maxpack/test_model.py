"""Traces, the learned model, its scores and its files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.maxpack.active import uncertain_points
from maitre.maxpack.card import MaxpackError, fingerprint_of
from maitre.maxpack.design import Point, design
from maitre.maxpack.evaluate import evaluate, risk_reliability
from maitre.maxpack.fit import fit_model
from maitre.maxpack.inputs import FEATURES
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.recommend import recommend_server
from maitre.maxpack.scores import macro_f1, symmetric_error
from maitre.maxpack.split import split_traces
from maitre.maxpack.traces import make_traces, point_features
from maitre.twin import AdapterLoad, ServerProfile
from tests.bit_flips import check_bit_flips

pytestmark = pytest.mark.slow


def test_designs_are_reproducible_and_valid(profile: ServerProfile) -> None:
    first, again = design(profile, 20, seed=5), design(profile, 20, seed=5)
    for (config, workload), (same_config, same_workload) in zip(first, again, strict=True):
        assert config == same_config
        assert workload.adapters == same_workload.adapters
        assert max(load.rank for load in workload.adapters) <= config.max_lora_rank
        assert config.max_cpu_loras >= len(workload.adapters)
    assert design(profile, 20, seed=6)[0][1].adapters != first[0][1].adapters
    assert [workload.adapters for _, workload in design(profile, 40, seed=5)[:20]] == [
        workload.adapters for _, workload in first
    ]


def test_traces_show_both_sides_of_the_limit(traces: pd.DataFrame) -> None:
    assert len(traces) == 96
    ran = traces[~traces["out_of_memory"]]
    assert ran["healthy"].any()
    assert (~ran["healthy"]).any()
    assert np.isfinite(ran[list(FEATURES)].to_numpy()).all()
    assert not (ran["healthy"] & ran["starved"]).any()


def test_traces_are_reproducible(profile: ServerProfile) -> None:
    points = design(profile, 3, seed=1)
    first = make_traces(profile, points, 30.0, seed=1, workers=1)
    again = make_traces(profile, points, 30.0, seed=1, workers=1)
    pd.testing.assert_frame_equal(first, again)
    assert fingerprint_of(first) == fingerprint_of(again)


def test_the_model_learns_and_reads_back(
    model: MaxpackModel, traces: pd.DataFrame, tmp_path: Path
) -> None:
    predicted = model.predict(traces)
    assert predicted["risk"].between(0, 1).all()
    assert (predicted["throughput_p05_tps"] <= predicted["throughput_p95_tps"]).all()
    assert (predicted["out_of_memory"] == traces["out_of_memory"]).all()
    scores = evaluate(model, traces)
    assert scores.throughput_error < 5
    assert scores.health_macro_f1 > 0.8
    found = risk_reliability(model, traces)
    assert sum(found.rows) == (~traces["out_of_memory"]).sum()
    assert found.observed[0] < found.observed[-1]
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")
    loaded = MaxpackModel.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.predict(traces), predicted)
    assert loaded.card == model.card


def test_fitting_is_reproducible(traces: pd.DataFrame) -> None:
    one, two = (fit_model(traces, 7, iterations=10) for _ in range(2))
    pd.testing.assert_frame_equal(one.predict(traces), two.predict(traces))


def test_a_split_divides_the_rows(traces: pd.DataFrame) -> None:
    training, test = split_traces(traces, 0.25, seed=2)
    assert len(training) + len(test) == len(traces)
    assert not set(training["seed"]) & set(test["seed"])


def test_what_active_learning_asked_for_is_never_held_out(traces: pd.DataFrame) -> None:
    marked = traces.assign(refined=np.arange(len(traces)) % 3 == 0)
    seen, unseen = split_traces(marked)
    assert len(seen) + len(unseen) == len(traces)
    assert not unseen["refined"].any()
    assert seen["refined"].sum() == marked["refined"].sum()


def test_unusable_traces_are_refused(traces: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(MaxpackError, match="lack the columns fill"):
        fit_model(traces.drop(columns="fill"))
    with pytest.raises(MaxpackError, match="needs 40"):
        fit_model(traces.iloc[:10])
    with pytest.raises(MaxpackError, match="alike"):
        fit_model(traces.assign(healthy=True, starved=False))
    mixed = traces.assign(profile=["a", *traces["profile"][1:]])
    with pytest.raises(MaxpackError, match="several values of profile"):
        fit_model(mixed)
    with pytest.raises(MaxpackError, match="holds no capacity model"):
        MaxpackModel.load(tmp_path / "absent")


def test_scores_of_known_cases() -> None:
    assert symmetric_error(np.array([1.0, 0.0]), np.array([3.0, 0.0])) == 25.0
    assert macro_f1(np.array([True, False]), np.array([True, False])) == 1.0
    assert macro_f1(np.array([True, True]), np.array([True, False])) == pytest.approx(1 / 3)


def test_recommendation_gives_slots_and_reason(profile: ServerProfile, model: MaxpackModel) -> None:
    adapters = [AdapterLoad(f"a{i}", 8, 0.05) for i in range(60)]
    for capacity in (None, model):
        found = recommend_server(adapters, profile, model=capacity)
        assert found.config.max_lora_rank == 8
        assert found.config.max_cpu_loras >= 60
        assert str(found.config.max_loras) in found.reason
    with pytest.raises(ValueError, match="rank 64 is above 32"):
        recommend_server([AdapterLoad("a", 64, 0.1)], profile)
    with pytest.raises(ValueError, match="there are none"):
        recommend_server([], profile)


def test_active_learning_asks_where_the_model_is_unsure(
    profile: ServerProfile, model: MaxpackModel
) -> None:
    def doubt(points: list[Point]) -> float:
        risk = model.predict(point_features(profile, points))["risk"].to_numpy()
        return float(np.mean(risk * (1 - risk)))

    chosen = uncertain_points(profile, model, 16, seed=5)
    assert len(chosen) == 16
    assert doubt(chosen) > doubt(design(profile, 64, seed=5))
    again = uncertain_points(profile, model, 16, seed=5)
    assert [config for config, _ in chosen] == [config for config, _ in again]


def test_some_designs_have_few_slots_and_much_load(profile: ServerProfile) -> None:
    features = point_features(profile, design(profile, 128, seed=7))
    few = features[features["adapters"] >= 3 * features["max_loras"]]
    assert len(few) >= 0.1 * len(features)
    assert (few["slot_wait_ms"] > 10_000).any()


def test_no_bit_flip_gives_another_model(model: MaxpackModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")

    def read() -> object:
        found = MaxpackModel.load(tmp_path / "model")
        arrays = [trees.arrays(name) for name, trees in found.trees.items()]
        trees = [array.tobytes() for made in arrays for array in made.values()]
        return found.card, trees, found.calibrations, found.bands, found.priors

    assert check_bit_flips(tmp_path / "model", read, flips=60) > 40
