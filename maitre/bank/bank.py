"""The prompt bank: an immutable collection of prompts for one base model."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np

from maitre.bank.entry import BankEntry, BankError
from maitre.bank.ita import StartRecord
from maitre.tenants import may_use

NEAR_DUPLICATE_SIMILARITY = 0.999
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejection:
    """An entry which was not added, and why."""

    entry_id: str
    why: str


@dataclass(frozen=True)
class PromptBank:
    """Prompts for one base model and tokenizer (their fingerprints), in order of insertion.

    All prompts of a bank have the same number of virtual tokens and stand at the same place of the
    input (`position`). A bank never changes: what adds or drops returns another bank. `history` is
    what tunings from its starts have shown; the predictor of iterations learns from it.
    """

    entries: tuple[BankEntry, ...] = ()
    history: tuple[StartRecord, ...] = field(default=(), repr=False)
    _places: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places: dict[str, int] = {}
        for place, entry in enumerate(self.entries):
            if entry.entry_id in places:
                raise BankError(f"entry {entry.entry_id!r} is in the bank twice")
            places[entry.entry_id] = place
            self._check_fits(entry)
        object.__setattr__(self, "_places", places)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[BankEntry]:
        return iter(self.entries)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._places

    def __getitem__(self, entry_id: str) -> BankEntry:
        """Return the entry of that id; raise `BankError` when there is no such entry."""
        if entry_id not in self._places:
            raise BankError(f"no entry {entry_id!r} in the bank of {len(self)} entries")
        return self.entries[self._places[entry_id]]

    def add(
        self,
        entries: Iterable[BankEntry],
        near_duplicate_similarity: float = NEAR_DUPLICATE_SIMILARITY,
    ) -> tuple["PromptBank", tuple[Rejection, ...]]:
        """Return the bank with the entries added, and those that were not.

        An entry whose prompt is a near duplicate (cosine of the matrices, flattened, at or above
        `near_duplicate_similarity`) of one that the same tenants see is rejected; so is an id that
        is taken by another prompt or tenant. An id that comes again with the same prompt of the
        same tenant updates its facts.
        Raises `BankError` for an entry of another base model, tokenizer, shape or position.
        """
        coming = list(entries)
        kept = list(self.entries)
        places = dict(self._places)
        directions = _directions(kept, room_for=len(coming))
        rejected: list[Rejection] = []
        for entry in coming:
            self._check_fits(entry, kept[0] if kept else None)
            if entry.entry_id in places:
                place = places[entry.entry_id]
                is_same_tenant = kept[place].tenant == entry.tenant
                if is_same_tenant and np.array_equal(kept[place].prompt, entry.prompt):
                    kept[place] = entry
                else:
                    why = "its id is taken by another prompt"
                    rejected.append(Rejection(entry.entry_id, why))
                continue
            direction = _direction(entry.prompt)
            if directions is None:
                directions = np.empty((len(coming), direction.size), dtype=np.float32)
            similarities = directions[: len(kept)] @ direction
            same_tenant = np.array([other.tenant == entry.tenant for other in kept], dtype=bool)
            similar = np.where(same_tenant, similarities, -1.0)
            if len(kept) and similar.max() >= near_duplicate_similarity:
                twin = kept[int(similar.argmax())].entry_id
                why = f"near duplicate of {twin} (cosine {similar.max():.4f})"
                rejected.append(Rejection(entry.entry_id, why))
                continue
            directions[len(kept)] = direction
            places[entry.entry_id] = len(kept)
            kept.append(entry)
        return replace(self, entries=tuple(kept)), tuple(rejected)

    def without(self, entry_ids: Iterable[str]) -> "PromptBank":
        """Return the bank without these entries; ignore ids that it does not hold."""
        dropped = set(entry_ids)
        return self._with_entries(e for e in self.entries if e.entry_id not in dropped)

    def visible_to(self, tenant: str | None) -> "PromptBank":
        """Return the prompts and the history that a tenant may use: the public ones and its own."""
        return replace(
            self,
            entries=tuple(entry for entry in self.entries if may_use(entry.tenant, tenant)),
            history=tuple(record for record in self.history if may_use(record.tenant, tenant)),
        )

    def evicted_to(self, most_entries: int) -> "PromptBank":
        """Return the bank cut to `most_entries`.

        The entries with the least measured benefit go first, the older of two equals. One that was
        never used counts as of average benefit, so that new prompts get their chance.
        """
        if len(self) <= most_entries:
            return self
        measured = [e.benefit for e in self.entries if e.benefit is not None]
        average = float(np.mean(measured)) if measured else 0.0
        ranked = sorted(
            self.entries,
            key=lambda e: (average if e.benefit is None else e.benefit, e.created_at, e.entry_id),
        )
        return self.without(e.entry_id for e in ranked[: len(self) - most_entries])

    def hit_rate(self) -> float | None:
        """Return the share of tunings that started from the bank; `None` before the first."""
        kinds = [record.kind for record in self.history if record.chosen]
        return sum(kind in ("bank", "mix") for kind in kinds) / len(kinds) if kinds else None

    def iterations_saved(self) -> float:
        """Return the iterations that tunings have saved by starting from the entries."""
        return sum((entry.benefit or 0.0) * entry.uses for entry in self.entries)

    def with_features(
        self, name: str, compute: Callable[[np.ndarray], np.ndarray], again: bool = False
    ) -> "PromptBank":
        """Return the bank with a feature vector for every entry.

        `compute` maps prompts `[n, virtual_tokens, hidden]` to vectors `[n, d]`; it is given the
        entries that lack the feature (with `again`, all).
        """
        lacking = [e for e in self.entries if again or name not in dict(e.features)]
        if not lacking:
            return self
        vectors = compute(np.stack([e.prompt for e in lacking]))
        if vectors.ndim != 2 or len(vectors) != len(lacking):
            raise BankError(f"feature {name!r}: shape {vectors.shape} for {len(lacking)} prompts")
        new = {
            e.entry_id: e.with_feature(name, vector)
            for e, vector in zip(lacking, vectors, strict=True)
        }
        return self._with_entries(new.get(e.entry_id, e) for e in self.entries)

    @staticmethod
    def load(url: str | PathLike[str], missing_ok: bool = False) -> "PromptBank":
        """Read the bank stored at a folder or any fsspec URL.

        Raises `BankError` when there is none (unless `missing_ok`: then an empty one) or when a
        file of it is damaged.
        """
        from maitre.bank.history import load_history
        from maitre.bank.store import load_entries

        entries = load_entries(str(url))
        if entries is None and not missing_ok:
            raise BankError(f"no prompt bank at {url}")
        return PromptBank(tuple(entries or ()), load_history(url))

    def save(self, url: str | PathLike[str]) -> None:
        """Store this bank's entries at a folder or fsspec URL, beside those already there.

        Entries that others have stored in the meantime stay: saving adds and updates, it never
        drops (`drop_entries` does). A reader sees all of it or nothing. Raises `BankError` for a
        stored bank of another model, `OSError` when storing fails; what was stored is then intact.
        """
        from maitre.bank.store import save_entries

        stored = PromptBank.load(url, missing_ok=True)
        for entry in self.entries[:1]:
            stored._check_fits(entry)
        save_entries(str(url), self.entries, stored.entries)

    def prompts(self) -> np.ndarray:
        """Return all prompts, float32 `[entries, virtual_tokens, hidden]`; refuse an empty bank."""
        if not self.entries:
            raise BankError("the bank is empty")
        return np.stack([entry.prompt for entry in self.entries])

    def check_model(self, base_model_hash: str, tokenizer_hash: str) -> None:
        """Raise `BankError` unless the bank is empty or of this base model and tokenizer."""
        for entry in self.entries[:1]:
            if entry.base_model_hash != base_model_hash:
                raise BankError(
                    f"the bank is of base model {entry.base_model} "
                    f"({entry.base_model_hash[:12]}), not of {base_model_hash[:12]}: "
                    "prompts only fit the model they were tuned for"
                )
            if entry.tokenizer_hash != tokenizer_hash:
                raise BankError(
                    f"the bank is of tokenizer {entry.tokenizer_hash[:12]}, "
                    f"not of {tokenizer_hash[:12]}"
                )

    def of_model(self, base_model_hash: str, tokenizer_hash: str) -> "PromptBank":
        """Return the bank; an empty one, with a warning, if it is of another tokenizer.

        Raises:
            BankError: the bank is of another base model.
        """
        other = {entry.tokenizer_hash for entry in self.entries[:1]} - {tokenizer_hash}
        if not other:
            self.check_model(base_model_hash, tokenizer_hash)
            return self
        self.check_model(base_model_hash, other.pop())
        _LOG.warning(
            "the bank is not used: it is of another tokenizer than the base model has now (%s)",
            tokenizer_hash[:12],
        )
        return PromptBank()

    def check_prompts(self, virtual_tokens: int, position: str) -> None:
        """Raise `BankError` unless the bank is empty or its prompts are of this kind."""
        for entry in self.entries[:1]:
            if (entry.prompt.shape[0], entry.position) != (virtual_tokens, position):
                raise BankError(
                    f"the bank's prompts have {entry.prompt.shape[0]} virtual tokens as "
                    f"{entry.position}, not {virtual_tokens} as {position}"
                )

    def _with_entries(self, entries: Iterable[BankEntry]) -> "PromptBank":
        return replace(self, entries=tuple(entries))

    def _check_fits(self, entry: BankEntry, first: BankEntry | None = None) -> None:
        first = first or (self.entries[0] if self.entries else entry)
        for what in ("base_model_hash", "tokenizer_hash", "position"):
            if getattr(entry, what) != getattr(first, what):
                raise BankError(
                    f"entry {entry.entry_id!r}: its {what} is {getattr(entry, what)}, "
                    f"the bank's is {getattr(first, what)}"
                )
        if entry.prompt.shape != first.prompt.shape:
            raise BankError(
                f"entry {entry.entry_id!r}: its prompt is {entry.prompt.shape}, "
                f"the bank's are {first.prompt.shape}"
            )


def mean_embeddings(prompts: np.ndarray) -> np.ndarray:
    """Return the simplest feature: each prompt's mean over its virtual tokens, `[n, hidden]`."""
    return np.asarray(prompts.mean(axis=1), dtype=np.float32)


def _directions(entries: list[BankEntry], room_for: int) -> np.ndarray | None:
    """Return unit directions of the entries' prompts, with room for more; `None` for no entries."""
    if not entries:
        return None
    directions = np.empty((len(entries) + room_for, entries[0].prompt.size), dtype=np.float32)
    for place, entry in enumerate(entries):
        directions[place] = _direction(entry.prompt)
    return directions


def _direction(prompt: np.ndarray) -> np.ndarray:
    flat = prompt.ravel()
    length = float(np.linalg.norm(flat))
    return flat / length if length else flat
