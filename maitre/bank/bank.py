"""The prompt bank in memory: entries of one base model and tokenizer, never changed in place."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from maitre.bank.entries import BankEntry, BankError

# Prompts closer than this (relative distance of their features) say the same.
DUPLICATE_DISTANCE = 1e-3


@dataclass(frozen=True)
class Addition:
    """A bank with new entries, and those that were left out as near-duplicates."""

    bank: "PromptBank"
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class PromptBank:
    """Entries in the order in which they came, all for one base model and tokenizer."""

    base_model_hash: str
    tokenizer_hash: str
    entries: tuple[BankEntry, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entries: Iterable[BankEntry]) -> Addition:
        """The bank with `entries` added.

        An entry with the id of one that is there takes its place. One of the same tenant whose
        features and prompt are those of another entry is rejected. Raises `BankError` for an
        entry of another base model, tokenizer or shape.
        """
        kept = {entry.entry_id: entry for entry in self.entries}
        rejected = []
        for entry in entries:
            self._check(entry, next(iter(kept.values()), None))
            others = (other for other in kept.values() if other.entry_id != entry.entry_id)
            if any(_is_duplicate(entry, other) for other in others):
                rejected.append(entry.entry_id)
            else:
                kept[entry.entry_id] = entry
        return Addition(replace(self, entries=tuple(kept.values())), tuple(rejected))

    def visible_to(self, tenant: str) -> "PromptBank":
        """The bank as a tenant may see it: shared prompts and its own."""
        return replace(self, entries=tuple(e for e in self.entries if e.is_visible_to(tenant)))

    def without_task(self, task: str) -> "PromptBank":
        """The bank without the prompts of one task, for measuring what the others are worth."""
        return replace(self, entries=tuple(e for e in self.entries if e.task != task))

    def get(self, entry_id: str) -> BankEntry:
        """The entry of that id; `BankError` when there is none."""
        for entry in self.entries:
            if entry.entry_id == entry_id:
                return entry
        raise BankError(f"no entry {entry_id!r} in the bank")

    def features(self) -> np.ndarray:
        """Features of all entries, float32 `[entries, features]`."""
        return np.stack([entry.features for entry in self.entries])

    def prompts(self) -> np.ndarray:
        """Prompts of all entries, float32 `[entries, virtual_tokens, hidden]`."""
        return np.stack([entry.prompt for entry in self.entries])

    def check_model(self, base_model_hash: str, tokenizer_hash: str) -> None:
        """Raise `BankError` when the bank is of another base model or tokenizer."""
        for what, ours, theirs in (
            ("base model", self.base_model_hash, base_model_hash),
            ("tokenizer", self.tokenizer_hash, tokenizer_hash),
        ):
            if ours != theirs:
                raise BankError(
                    f"the prompt bank is of {what} {ours[:12]}, the model in use has {theirs[:12]}"
                )

    def _check(self, entry: BankEntry, sample: BankEntry | None) -> None:
        if entry.base_model_hash != self.base_model_hash:
            raise BankError(f"entry {entry.entry_id} is of another base model than the bank")
        if entry.tokenizer_hash != self.tokenizer_hash:
            raise BankError(f"entry {entry.entry_id} is of another tokenizer than the bank")
        if sample is None:
            return
        shapes = (entry.prompt.shape, entry.features.shape)
        expected = (sample.prompt.shape, sample.features.shape)
        if shapes != expected:
            raise BankError(f"entry {entry.entry_id} has shapes {shapes}, the bank's {expected}")


def _is_duplicate(a: BankEntry, b: BankEntry) -> bool:
    if a.tenant != b.tenant:
        return False
    scale = max(float(np.linalg.norm(b.features)), 1e-12)
    if np.linalg.norm(a.features - b.features) > DUPLICATE_DISTANCE * scale:
        return False
    scale = max(float(np.linalg.norm(b.prompt)), 1e-12)
    return bool(np.linalg.norm(a.prompt - b.prompt) <= DUPLICATE_DISTANCE * scale)
