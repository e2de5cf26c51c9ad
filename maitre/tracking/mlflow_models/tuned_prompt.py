"""A tuned prompt as an MLflow model: texts in, answers out.

The version holds the soft prompt (`prompt.safetensors`) and how it is used (`prompt.json`). The
base model is the one of the settings (`maitre.yaml`, or MAITRE_BASE_MODEL); another is refused.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from safetensors.numpy import load_file


class TunedPrompt(mlflow.pyfunc.PythonModel):
    """Answers the column `prompt` with the tuned soft prompt."""

    def load_context(self, context: Any) -> None:
        """Read the prompt and load the base model it was tuned for."""
        from maitre.settings import Settings
        from maitre.tuning.base_model import BaseModel

        folder = Path(context.artifacts["prompt"])
        self.card = json.loads((folder / "prompt.json").read_text())
        self.prompt = load_file(folder / "prompt.safetensors")["prompt"]
        self.model = BaseModel.load(Settings.read().base_model)
        if self.model.hash != self.card["base_model_hash"]:
            raise ValueError(
                f"this prompt was tuned for {self.card['base_model']} "
                f"({self.card['base_model_hash'][:12]}), not for {self.model.name}"
            )

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One answer for each row of the column `prompt`."""
        from maitre.tuning.answer import answer

        del context, params
        texts = model_input["prompt"].tolist()
        answers = answer(
            self.model,
            self.prompt,
            texts,
            position=self.card["position"],
            max_new_tokens=self.card["max_new_tokens"],
        )
        return pd.DataFrame({"completion": answers})


mlflow.models.set_model(TunedPrompt())
