"""A tuned prompt as an MLflow model: texts or chats in, answers out.

The version holds the soft prompt (`prompt.safetensors`), how it is asked (`prompt.json`) and the
code that answers. `model_config` names the base model; nothing else is read from the machine.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class TunedPrompt(mlflow.pyfunc.PythonModel):
    """Answers the column `prompt`, or `messages`, with the tuned soft prompt."""

    def load_context(self, context: Any) -> None:
        """Read the prompt and load the base model that `model_config` names."""
        from maitre.tuning.registered_prompt import RegisteredPrompt

        folder = Path(context.artifacts["prompt"])
        self.registered = RegisteredPrompt.load(folder, context.model_config or {})

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one answer for each row, in the column `completion`."""
        del context, params
        rows = model_input.to_dict(orient="records")
        return pd.DataFrame({"completion": self.registered.answers(rows)})


mlflow.models.set_model(TunedPrompt())
