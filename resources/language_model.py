"""The language model: one base model, loaded when first asked for and kept for the process."""

from functools import lru_cache
from pathlib import Path
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

    def fingerprint(self) -> str:
        """The hash of a local folder's weights; for a hub id the id itself, nothing is fetched."""
        from maitre.tuning.weights_hash import weights_hash

        folder = Path(self.path_or_id)
        if folder.is_dir():
            return weights_hash(folder)[:16]
        if folder.is_absolute() or self.path_or_id.startswith(".") or len(folder.parts) > 2:
            raise FileNotFoundError(
                f"base model {self.path_or_id}: no such folder; see maitre.yaml"
            )
        return self.path_or_id


@lru_cache(maxsize=1)
def _load(path_or_id: str, device: str, dtype: str) -> "BaseModel":
    from maitre.tuning.base_model import BaseModel

    return BaseModel.load(path_or_id, device=device, dtype=dtype)
