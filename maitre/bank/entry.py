"""One prompt of the bank: the matrix, whose model it is for, where it comes from, what it did."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from maitre.errors import UserError


class BankError(UserError):
    """A bank, or something given to it, that cannot be used; one line that says what and where."""


@dataclass(frozen=True, eq=False)
class BankEntry:
    """A tuned prompt and all that is known of it.

    `prompt` is float32 `[virtual_tokens, hidden]` and only fits the base model and tokenizer whose
    fingerprints are `base_model_hash` and `tokenizer_hash`. `tenant` `None` means that everybody
    may start from it, otherwise only that tenant. `ita` (iterations to accuracy) is what the
    prompt's own tuning took, `ita_cold` what a cold start of the same task took. `benefit` is the
    mean iterations that tunings started from it have saved so far. `features` are vectors by name.
    `run_id` is the tracking run it was tuned in, `text` the words of a prompt that is a text.
    """

    entry_id: str
    prompt: np.ndarray
    task: str
    description: str
    base_model: str
    base_model_hash: str
    tokenizer_hash: str
    created_at: datetime
    group: str | None = None
    text: str | None = None
    tenant: str | None = None
    licence: str | None = None
    run_id: str | None = None
    ita: float | None = None
    ita_cold: float | None = None
    benefit: float | None = None
    uses: int = 0
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    position: str = "suffix"
    features: tuple[tuple[str, np.ndarray], ...] = ()

    def __post_init__(self) -> None:
        where = f"entry {self.entry_id!r}"
        if not self.entry_id or any(character in self.entry_id for character in "\0\n/"):
            raise BankError(
                f"{where}: an id must have characters, none of them '/' or a line break"
            )
        if self.prompt.ndim != 2 or 0 in self.prompt.shape:
            raise BankError(f"{where}: prompt has shape {self.prompt.shape}, expected two axes")
        if self.prompt.dtype != np.float32:
            raise BankError(f"{where}: prompt is {self.prompt.dtype}, expected float32")
        if not np.isfinite(self.prompt).all():
            raise BankError(f"{where}: prompt holds values that are not finite")
        if self.created_at.tzinfo is None:
            raise BankError(f"{where}: created_at has no time zone")

    def feature(self, name: str) -> np.ndarray:
        """Return the named feature vector; raise `BankError` when it has not been computed."""
        for known, vector in self.features:
            if known == name:
                return vector
        have = ", ".join(known for known, _ in self.features) or "none"
        raise BankError(f"entry {self.entry_id!r} has no feature {name!r} (it has: {have})")

    def with_feature(self, name: str, vector: np.ndarray) -> "BankEntry":
        """Return the same entry with a feature added or replaced."""
        others = tuple(pair for pair in self.features if pair[0] != name)
        added = (*others, (name, np.asarray(vector, dtype=np.float32)))
        return replace(self, features=tuple(sorted(added, key=lambda pair: pair[0])))

    def with_use(self, saved_iterations: float) -> "BankEntry":
        """Return the entry after one more tuning started from it; `benefit` is a running mean."""
        total = (self.benefit or 0.0) * self.uses + saved_iterations
        return replace(self, uses=self.uses + 1, benefit=total / (self.uses + 1))

    def facts(self) -> dict[str, Any]:
        """Return everything but the vectors as JSON types (`created_at` in ISO 8601)."""
        skipped = ("prompt", "features", "created_at")
        plain = {key: value for key, value in vars(self).items() if key not in skipped}
        shape = {"virtual_tokens": self.prompt.shape[0], "hidden": self.prompt.shape[1]}
        return plain | shape | {"created_at": self.created_at.isoformat()}


def entry_id(task: str, prompt: np.ndarray, tenant: str | None = None) -> str:
    """Return an id made of the task and the prompt's values: equal prompts have equal ids.

    Another tenant's copy of a prompt gets another id. So nobody learns from a taken id which
    prompts others have.
    """
    digest = hashlib.sha256(np.ascontiguousarray(prompt, dtype=np.float32).tobytes())
    if tenant is not None:
        digest.update(tenant.encode())
    return f"{task}-{digest.hexdigest()[:12]}"
