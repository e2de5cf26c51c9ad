"""The base model of this process: loaded when first asked for, then kept."""

from functools import lru_cache
from typing import TYPE_CHECKING

from maitre.tuning.model_folder import model_folder
from maitre.tuning.weights_hash import weights_hash

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel

_HASH_LENGTH = 16


@lru_cache(maxsize=1)
def loaded_model(path_or_id: str, device: str = "auto", dtype: str = "auto") -> "BaseModel":
    """Return the base model in this folder or of this hub id.

    The same arguments give the same object for as long as no other model is asked for.
    """
    # Importing it imports torch and transformers, which takes seconds.
    from maitre.tuning.base_model import BaseModel

    return BaseModel.load(path_or_id, device=device, dtype=dtype)


def model_fingerprint(path_or_id: str) -> str:
    """Return the hash of a model's weights; fetch a hub id that is not in the hub's cache.

    Raises:
        UserError: no such folder, or no model that the hub gives out.
    """
    return weights_hash(model_folder(path_or_id))[:_HASH_LENGTH]
