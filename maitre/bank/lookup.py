"""Finds a start for a new task: medoids first, then the best clusters, by successive halving.

All candidates are scored on a few samples of the task, the better third on more, and so on. Bank
prompts compete with text prompts and with the user's own instruction on equal terms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.index import BankIndex

# Losses of prompts `[n, virtual_tokens, hidden]` on the first so many samples: float `[n]`.
Score = Callable[[np.ndarray, int], np.ndarray]
Clock = Callable[[], float]

ROUNDS_SAMPLES = (4, 8, 16)
KEPT_SHARE = 1 / 3
BEST_CLUSTERS = 3


@dataclass(frozen=True, eq=False)
class Candidate:
    """A possible start; `loss` over `samples` examples, NaN before it has been scored."""

    name: str
    kind: Literal["bank", "text", "instruction"]
    prompt: np.ndarray
    loss: float = float("nan")
    samples: int = 0


@dataclass(frozen=True, eq=False)
class Lookup:
    """What a lookup found: `candidates` best first, as far as each was scored."""

    choice: Candidate
    candidates: tuple[Candidate, ...]
    evaluated: int
    seconds: float
    within_budget: bool
    why: str


def lookup(
    bank: PromptBank,
    index: BankIndex | None,
    score: Score,
    *,
    clock: Clock,
    extra: Sequence[Candidate] = (),
    budget_s: float = 10.0,
) -> Lookup:
    """Choose the start with the lowest loss on samples of the task.

    `index` may be None for an empty bank; then only `extra` competes. Scoring stops when `budget_s`
    has passed, and the best so far is chosen. Raises `ValueError` with no candidate at all.
    """
    search = _Search(score, clock, budget_s)
    of_bank = [Candidate(e.entry_id, "bank", e.prompt) for e in bank.entries]
    first = [*(of_bank[i] for i in index.medoids if index)] if index else []
    if not first and not extra:
        raise ValueError("nothing to choose from: the bank is empty and no text was given")
    ranked = search.halve([*first, *extra])
    if index:
        rank = {candidate.name: place for place, candidate in enumerate(ranked)}
        order = sorted(range(len(first)), key=lambda k: rank[first[k].name])
        second = [
            of_bank[i]
            for k in order[:BEST_CLUSTERS]
            for i in index.members[k]
            if i != index.medoids[k]
        ]
        if second:
            search.halve(second)
    ranked = search.ranking()
    choice = ranked[0]
    others = sum(c.kind == "bank" for c in ranked)
    why = (
        f"lowest loss {choice.loss:.3f} on {choice.samples} samples among {len(ranked)} candidates "
        f"({others} of {len(bank)} prompts of the bank)"
    )
    if not search.within_budget:
        why += f"; stopped at the budget of {budget_s:g} s"
    return Lookup(
        choice, tuple(ranked), search.evaluated, search.seconds(), search.within_budget, why
    )


class _Search:
    """Scores candidates round by round and remembers what each got."""

    def __init__(self, score: Score, clock: Clock, budget_s: float) -> None:
        self._score = score
        self._clock = clock
        self._budget_s = budget_s
        self._started_s = clock()
        self._scored: dict[str, Candidate] = {}
        self.evaluated = 0
        self.within_budget = True

    def seconds(self) -> float:
        return self._clock() - self._started_s

    def halve(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Score on 4, 8, 16 samples, keeping a third each time; all of them, best first."""
        alive = list(candidates)
        for samples in ROUNDS_SAMPLES:
            if self._scored and self.seconds() > self._budget_s:
                self.within_budget = False
                break
            losses = self._score(np.stack([c.prompt for c in alive]), samples)
            self.evaluated += len(alive)
            alive = [
                replace(candidate, loss=float(loss), samples=samples)
                for candidate, loss in zip(alive, losses, strict=True)
            ]
            self._scored |= {candidate.name: candidate for candidate in alive}
            alive.sort(key=lambda c: c.loss)
            alive = alive[: max(2, round(len(alive) * KEPT_SHARE))]
        names = {candidate.name for candidate in candidates}
        return [candidate for candidate in self.ranking() if candidate.name in names]

    def ranking(self) -> list[Candidate]:
        """Those scored on most samples first, then by loss."""
        return sorted(self._scored.values(), key=lambda c: (-c.samples, c.loss))
