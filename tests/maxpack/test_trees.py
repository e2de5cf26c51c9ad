"""The trees' own evaluator says what CatBoost says."""

import catboost
import numpy as np
import pytest

from maitre.maxpack.trees import ObliviousTrees


@pytest.mark.parametrize("rows", [1, 63, 64, 257])
def test_predictions_are_those_of_catboost(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(400, 5))
    quiet = {"verbose": False, "allow_writing_files": False, "thread_count": 1, "iterations": 30}
    regressor = catboost.CatBoostRegressor(depth=6, **quiet).fit(x, x[:, 0] * x[:, 1])
    classifier = catboost.CatBoostClassifier(
        depth=4, monotone_constraints=[1, 0, 0, 0, 0], **quiet
    ).fit(x, x[:, 0] + 0.3 * x[:, 2] > 0)
    new = rng.normal(size=(rows, 5))
    found = ObliviousTrees.from_catboost(regressor).raw(new)
    np.testing.assert_allclose(found, regressor.predict(new), rtol=1e-12, atol=1e-12)
    found = ObliviousTrees.from_catboost(classifier).raw(new)
    raw = classifier.predict(new, prediction_type="RawFormulaVal")
    np.testing.assert_allclose(found, raw, rtol=1e-12, atol=1e-12)


def test_trees_of_another_kind_are_refused() -> None:
    x = np.arange(40.0).reshape(20, 2)
    model = catboost.CatBoostRegressor(
        grow_policy="Lossguide", iterations=3, verbose=False, allow_writing_files=False
    ).fit(x, x[:, 0])
    with pytest.raises(ValueError, match="oblivious"):
        ObliviousTrees.from_catboost(model)
