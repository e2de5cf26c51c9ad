"""Which rows a model was trained on, and which are left to score it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maitre.maxpack.card import MaxpackError
from maitre.maxpack.evaluate import evaluate
from maitre.maxpack.fit import fit_model, model_at_objective
from maitre.maxpack.model import MaxpackModel
from maitre.maxpack.promotion import compare_with_champion, judge_champion
from maitre.maxpack.split import row_identities, rows_not_trained_on, split_traces
from maitre.maxpack.traces import at_objective

pytestmark = pytest.mark.slow


def test_a_row_keeps_its_identity_through_a_file_and_another_objective(
    traces: pd.DataFrame, tmp_path: Path
) -> None:
    traces.to_parquet(tmp_path / "traces.parquet", index=False)
    read = pd.read_parquet(tmp_path / "traces.parquet")
    assert len(set(row_identities(traces))) == len(traces)
    assert (row_identities(read) == row_identities(traces)).all()
    assert (row_identities(at_objective(traces, 500.0)) == row_identities(traces)).all()


def test_a_model_knows_after_reading_back_which_rows_it_was_trained_on(
    traces: pd.DataFrame, tmp_path: Path
) -> None:
    seen, unseen = split_traces(traces, 0.3, seed=11)
    fit_model(seen, iterations=5).save(tmp_path / "model")
    model = MaxpackModel.load(tmp_path / "model")
    left = rows_not_trained_on(model.training_rows, traces)
    pd.testing.assert_frame_equal(left, unseen)


def test_a_champion_of_another_split_is_compared_on_rows_that_neither_has_seen(
    traces: pd.DataFrame,
) -> None:
    champion = fit_model(split_traces(traces, 0.5, seed=1)[0], iterations=5)
    seen, held_out = split_traces(traces, 0.5, seed=2)
    challenger = fit_model(seen, iterations=5)
    found = compare_with_champion(challenger, champion, held_out)
    common = rows_not_trained_on(champion.training_rows, held_out)
    assert len(common) < len(held_out)
    assert found.champion is not None
    assert found.champion.rows == int((~common["out_of_memory"]).sum())


@pytest.mark.parametrize("fact", ["none", "objective", "same rows"])
def test_a_challenger_without_a_comparison_is_promoted_with_the_reason(
    traces: pd.DataFrame, fact: str
) -> None:
    seen, held_out = split_traces(traces, 0.3, seed=3)
    challenger = fit_model(seen, iterations=5)
    champion = {
        "none": None,
        "objective": fit_model(at_objective(seen, 3000.0), iterations=5),
        "same rows": fit_model(traces, iterations=5),
    }[fact]
    found = compare_with_champion(challenger, champion, held_out)
    assert found.promoted
    assert found.champion is None
    assert {"none": "no champion", "objective": "ttft_slo_ms", "same rows": "0 are left"}[
        fact
    ] in found.reason


def test_a_tighter_objective_makes_no_row_healthy(traces: pd.DataFrame) -> None:
    same = at_objective(traces, float(traces["ttft_slo_ms"].iloc[0]))
    pd.testing.assert_series_equal(same["healthy"], traces["healthy"])
    tight = at_objective(traces, 300.0)
    assert (tight["healthy"] <= traces["healthy"]).all()
    assert tight["healthy"].sum() < traces["healthy"].sum()


def test_a_model_at_another_objective_is_of_the_same_rows_and_more_careful(
    traces: pd.DataFrame,
) -> None:
    seen, unseen = split_traces(traces, 0.3, seed=4)
    model = fit_model(seen, iterations=30)
    tight = model_at_objective(model, traces, 500.0)
    assert tight.card.ttft_slo_ms == 500.0
    assert (tight.training_rows == model.training_rows).all()
    assert tight.predict(unseen)["risk"].mean() > model.predict(unseen)["risk"].mean()
    assert model_at_objective(model, traces, model.card.ttft_slo_ms) is model
    with pytest.raises(MaxpackError, match="fit a new model on these traces"):
        model_at_objective(model, traces.iloc[: len(traces) // 2], 500.0)


def test_training_rows_are_sorted_hashes(model: MaxpackModel, traces: pd.DataFrame) -> None:
    assert model.training_rows.dtype == np.uint64
    assert (np.diff(model.training_rows.astype(object)) > 0).all()
    assert len(model.training_rows) == len(traces)


def test_the_champion_is_judged_on_traces_that_it_was_not_trained_on(
    traces: pd.DataFrame,
) -> None:
    seen, unseen = split_traces(traces, 0.5, seed=1)
    champion = fit_model(seen, iterations=5)
    found = judge_champion(champion, traces)
    assert found.scores == evaluate(champion, unseen)
    assert found.passed == (
        found.scores.throughput_error < 8 and found.scores.starvation_macro_f1 > 0.9
    )
    none_left = judge_champion(champion, seen)
    assert (none_left.passed, none_left.scores) == (False, None)
    assert "trained on all but 0 of the traces" in none_left.reason
