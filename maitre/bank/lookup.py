"""Finding the prompt to start from: medoids first, then the best clusters, by successive halving.

Candidates are scored by their loss on samples of the new task. Successive halving (Jamieson &
Talwalkar 2016) gives every candidate a few samples and the better ones more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankError
from maitre.bank.index import BankIndex

Score = Callable[[np.ndarray, range], np.ndarray]
"""Mean losses `[n]` of prompts `[n, virtual_tokens, hidden]` on the samples of a range."""

Kind = Literal["bank", "mix", "text", "instruction", "random"]

SAMPLE_ROUNDS = (4, 8, 16)
_KEPT_SHARE = 3
_FEWEST_CLUSTERS = 3
_FEWEST_FINALISTS = 4
_FEWEST_MEMBERS = 64
# Share of the time budget after the medoids that first scores of cluster members may use.
_MEMBERS_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Candidate:
    """A prompt that a tuning could start from; `name` is the entry's id where it is of the bank.

    A `mix` is made of the bank's prompts; `source` is the entry it owes the most to.
    """

    name: str
    kind: Kind
    prompt: np.ndarray
    source: str | None = None

    @property
    def entry(self) -> str | None:
        """The id of the entry that the start comes from, if any."""
        return self.name if self.kind == "bank" else self.source


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate's mean loss over the first `samples` samples."""

    name: str
    kind: Kind
    loss: float
    samples: int


@dataclass(frozen=True, eq=False)
class Lookup:
    """What a lookup found.

    `candidates` are all that were scored: those scored on the most samples come first, and among
    equals the better ones. `evaluated` counts passes of one candidate over one sample. `why` says
    in a sentence how the choice was made. The last fields describe the choice: its loss, its loss
    after probing steps, the iterations it is predicted to need, and those of a cold start.
    """

    choice: Candidate
    candidates: tuple[ScoredCandidate, ...]
    finalists: tuple[Candidate, ...]
    evaluated: int
    why: str
    seconds: float
    start_loss: float | None = None
    probed_loss: float | None = None
    predicted_iterations: float | None = None
    predicted_cold_iterations: float | None = None


def lookup(
    bank: PromptBank,
    index: BankIndex | None,
    score: Score,
    samples: int,
    *,
    candidates_extra: Sequence[Candidate] = (),
    budget_s: float = 10.0,
    clock: Callable[[], float],
    exhaustive: bool = False,
) -> Lookup:
    """Choose among the bank's prompts and `candidates_extra` by loss on the task's samples.

    `bank` holds what the asking tenant may see; entries that the index knows and the bank lacks
    are never scored. Entries newer than the index are candidates of the first layer. `samples`
    bounds the samples used. Rounds stop when `budget_s` (of `clock`) is used up; the best so far is
    then chosen. `exhaustive` (or no index) scores every entry on all samples. Raises `BankError`
    when there is nothing to choose from.
    """
    race = _Race(score, clock, budget_s)
    rounds = [min(count, samples) for count in SAMPLE_ROUNDS if count // 2 < samples] or [samples]
    by_id = {e.entry_id: Candidate(e.entry_id, "bank", e.prompt) for e in bank}
    extra = list(candidates_extra)
    if not by_id and not extra:
        raise BankError("nothing to look up: no prompt in the bank is visible and none was given")
    if exhaustive or index is None:
        race.run([*extra, *by_id.values()], samples)
        return race.result(f"best of all {len(race.losses)} candidates on {samples} samples")

    first, clusters = _first_layer(by_id, index)
    race.run([*extra, *first.values()], rounds[0])
    opened = _clusters_to_open(race, clusters, rounds[0])
    race.run([by_id[name] for members in opened for name in members], rounds[0])
    for count in rounds[1:]:
        if race.is_out_of_time():
            break
        race.run(race.best(max(_FEWEST_FINALISTS, len(race.leaders()) // _KEPT_SHARE)), count)
    how = (
        f"{len(first)} medoids and {len(extra)} other candidates, then the members of "
        f"{len(opened)} of {len(clusters)} clusters"
    )
    late = f"; stopped at the budget of {budget_s:g} s" if race.is_out_of_time() else ""
    return race.result(f"{how}, halved over {'/'.join(map(str, rounds))} samples{late}")


class _Race:
    """Scores candidates on more and more samples, never the same sample twice."""

    def __init__(self, score: Score, clock: Callable[[], float], budget_s: float) -> None:
        self._score, self._clock, self._budget_s = score, clock, budget_s
        self._started_s = clock()
        self.evaluated = 0
        self.losses: dict[str, tuple[Candidate, int, float]] = {}

    def run(self, candidates: Sequence[Candidate], samples: int) -> None:
        """Score the candidates until each has a loss on `samples` samples."""
        by_done: dict[int, list[Candidate]] = {}
        for candidate in {c.name: c for c in candidates}.values():
            _, done, _ = self.losses.get(candidate.name, (candidate, 0, 0.0))
            if done < samples:
                by_done.setdefault(done, []).append(candidate)
        for done, group in by_done.items():
            fresh = self._score(np.stack([c.prompt for c in group]), range(done, samples))
            self.evaluated += len(group) * (samples - done)
            for candidate, loss in zip(group, fresh, strict=True):
                before = self.losses.get(candidate.name, (candidate, 0, 0.0))[2]
                total = before * done + float(loss) * (samples - done)
                mean = total / samples
                self.losses[candidate.name] = (
                    candidate,
                    samples,
                    mean if np.isfinite(mean) else np.inf,
                )

    def leaders(self) -> list[Candidate]:
        """Return the candidates scored on the most samples, best first."""
        most = max(samples for _, samples, _ in self.losses.values())
        scored = [(loss, c) for c, samples, loss in self.losses.values() if samples == most]
        return [candidate for _, candidate in sorted(scored, key=lambda pair: pair[0])]

    def best(self, count: int) -> list[Candidate]:
        return self.leaders()[:count]

    def elapsed_s(self) -> float:
        return self._clock() - self._started_s

    def is_out_of_time(self) -> bool:
        return self.elapsed_s() >= self._budget_s

    def affordable(self, samples: int, share: float) -> float:
        """Return how many candidates can be scored on `samples` in a share of the time left."""
        elapsed_s = self.elapsed_s()
        if elapsed_s <= 0:
            return float("inf")
        left_s = max(0.0, self._budget_s - elapsed_s)
        return share * left_s * (self.evaluated / elapsed_s) / samples

    def result(self, why: str) -> Lookup:
        leaders = self.leaders()
        choice = leaders[0]
        loss = self.losses[choice.name][2]
        ranked = sorted(self.losses.values(), key=lambda scored: (-scored[1], scored[2]))
        following = [f", next {c.name} with {self.losses[c.name][2]:.3f}" for c in leaders[1:2]]
        return Lookup(
            choice=choice,
            candidates=tuple(
                ScoredCandidate(c.name, c.kind, value, samples) for c, samples, value in ranked
            ),
            finalists=tuple(leaders[:_FEWEST_FINALISTS]),
            evaluated=self.evaluated,
            why=(
                f"{choice.kind} prompt {choice.name} has the lowest loss, {loss:.3f}"
                f"{''.join(following)} ({why})"
            ),
            seconds=self.elapsed_s(),
        )


def _first_layer(
    by_id: dict[str, Candidate], index: BankIndex
) -> tuple[dict[str, Candidate], list[tuple[str, ...]]]:
    """Return one candidate per cluster, all that the index does not know, and the clusters.

    The first visible member stands for a cluster whose medoid is not visible.
    """
    clusters = []
    for medoid, members in zip(index.medoids, index.members, strict=True):
        visible = [name for name in members if name in by_id]
        if visible:
            speaker = medoid if medoid in by_id else visible[0]
            clusters.append((speaker, *(name for name in visible if name != speaker)))
    known = set(index.entry_ids)
    clusters += [(name,) for name in by_id if name not in known]
    return {cluster[0]: by_id[cluster[0]] for cluster in clusters}, clusters


def _clusters_to_open(
    race: _Race, clusters: Sequence[tuple[str, ...]], samples: int
) -> list[tuple[str, ...]]:
    """Return the clusters of the best medoids: a third of all, fewer where time is short.

    More clusters are returned where that third is small: scoring `_FEWEST_MEMBERS` prompts costs
    little, and in a small bank a medoid says little about its cluster.
    """
    ranked = sorted(clusters, key=lambda cluster: race.losses[cluster[0]][2])
    most = max(_FEWEST_CLUSTERS, len(clusters) // _KEPT_SHARE)
    affordable = race.affordable(samples, _MEMBERS_SHARE)
    opened: list[tuple[str, ...]] = []
    members = 0
    for place, cluster in enumerate(ranked):
        members += len(cluster) - 1
        enough = place >= most and members > _FEWEST_MEMBERS
        if opened and (enough or members > affordable):
            break
        opened.append(cluster)
    return opened
