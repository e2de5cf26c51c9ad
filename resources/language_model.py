"""The base model as a Dagster resource."""

from typing import TYPE_CHECKING

import dagster as dg

from maitre.tuning.loaded_model import loaded_model, model_fingerprint

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel


class LanguageModel(dg.ConfigurableResource):
    """A base model by local folder (Hugging Face layout) or hub id."""

    path_or_id: str
    device: str = "auto"
    dtype: str = "auto"

    def load(self) -> "BaseModel":
        """Return the loaded model; the same object for every call in one process."""
        return loaded_model(self.path_or_id, self.device, self.dtype)

    def fingerprint(self) -> str:
        """Return the hash of a local folder's weights; of a hub id the id itself."""
        return model_fingerprint(self.path_or_id)
