"""One prompt of the bank: the matrix, what it was tuned for, where it comes from, how it did."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

SHARED = "shared"


class BankError(ValueError):
    """Something is not fit for the bank, or the bank is not fit for use; says what and where."""


@dataclass(frozen=True, eq=False)
class BankEntry:
    """A past prompt.

    `prompt` is float32 `[virtual_tokens, hidden]`; `features` float32 `[features]` describes what
    it makes the model say (see `maitre.tuning.features`). `tenant` is whose it is: `shared` is
    offered to everyone, any other only to that tenant. `ita` and `ita_cold` are the measured
    iterations to the target from its start and from a cold one, None where nobody measured.
    """

    entry_id: str
    prompt: np.ndarray
    features: np.ndarray
    base_model: str
    base_model_hash: str
    tokenizer_hash: str
    task: str
    description: str
    created_at: datetime
    group: str | None = None
    text: str | None = None
    position: str = "suffix"
    tenant: str = SHARED
    licence: str = "unknown"
    mlflow_run_id: str | None = None
    eval_loss: float | None = None
    ita: int | None = None
    ita_cold: int | None = None

    def __post_init__(self) -> None:
        if not self.entry_id:
            raise BankError("an entry of the bank needs an id")
        for name, array, dimensions in (
            ("prompt", self.prompt, 2),
            ("features", self.features, 1),
        ):
            if array.ndim != dimensions or array.dtype != np.float32:
                raise BankError(
                    f"entry {self.entry_id}: {name} is {array.dtype} of {array.ndim} dimensions, "
                    f"expected float32 of {dimensions}"
                )
            if not np.isfinite(array).all():
                raise BankError(f"entry {self.entry_id}: {name} holds values that are not finite")

    @property
    def benefit(self) -> float | None:
        """Cold iterations over the measured ones; None where nobody measured."""
        if self.ita is None or self.ita_cold is None:
            return None
        return self.ita_cold / max(self.ita, 1)

    def is_visible_to(self, tenant: str) -> bool:
        """Whether `tenant` may be offered this prompt."""
        return self.tenant in (SHARED, tenant)
