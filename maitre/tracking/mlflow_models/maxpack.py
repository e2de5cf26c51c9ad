"""The capacity model as an MLflow model: features in, predictions out."""

from typing import Any

import mlflow
import pandas as pd

from maitre.maxpack.model import MaxpackModel


class Maxpack(mlflow.pyfunc.PythonModel):
    """Serves a `MaxpackModel` saved as the artefact `model`."""

    def load_context(self, context: Any) -> None:
        """Read the model's files."""
        self.model = MaxpackModel.load(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return predictions for rows of the columns `maitre.maxpack.inputs.FEATURES`."""
        del context, params
        return self.model.predict(model_input)


mlflow.models.set_model(Maxpack())
