"""The language model: one base model, loaded when first asked for and kept for the process."""

from functools import lru_cache
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel


class LanguageModel(dg.ConfigurableResource):
    """A base model by local folder (Hugging Face layout) or hub id."""

    path_or_id: str
    device: str = "auto"
    dtype: str = "auto"

    def load(self) -> "BaseModel":
        """The loaded model; the same object for every call in one process."""
        return _load(self.path_or_id, self.device, self.dtype)


@lru_cache(maxsize=1)
def _load(path_or_id: str, device: str, dtype: str) -> "BaseModel":
    from maitre.tuning.base_model import BaseModel

    return BaseModel.load(path_or_id, device=device, dtype=dtype)
