"""The base model of this process: loaded when first asked for, then kept."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from maitre.errors import UserError
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
    """Return the hash of a local folder's weights; of a hub id the id itself.

    Nothing is fetched.

    Raises:
        UserError: the path looks local and is not a folder.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return weights_hash(folder)[:_HASH_LENGTH]
    if folder.is_absolute() or path_or_id.startswith(".") or len(folder.parts) > 2:
        raise UserError(f"base model {path_or_id}: no such folder; see maitre.yaml")
    return path_or_id
