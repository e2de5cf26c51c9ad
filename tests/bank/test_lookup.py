"""The index's two layers, and the lookup: finds the best, spends little, keeps its budget."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from maitre.bank.bank import PromptBank, mean_embeddings
from maitre.bank.entry import BankEntry, BankError
from maitre.bank.index import build_index
from maitre.bank.lookup import Candidate, lookup

Make = Callable[..., BankEntry]


def still() -> float:
    return 0.0


class Distance:
    """Scores a prompt by its distance to a target, with noise that samples average out."""

    def __init__(self, target: np.ndarray, noise: float = 0.0) -> None:
        self.target, self.noise = target, noise
        self.passes = 0

    def __call__(self, prompts: np.ndarray, samples: range) -> np.ndarray:
        self.passes += len(prompts) * len(samples)
        distances = np.linalg.norm((prompts - self.target).reshape(len(prompts), -1), axis=1)
        noise = [np.random.default_rng(s).normal(size=len(prompts)).mean() for s in samples]
        return distances + self.noise * np.mean(noise)


def test_clusters_are_found_and_each_entry_is_in_one(clustered: PromptBank) -> None:
    index = build_index(clustered, "mean", clusters=5)
    members = [entry_id for cluster in index.members for entry_id in cluster]
    assert sorted(members) == sorted(e.entry_id for e in clustered)
    for medoid, cluster in zip(index.medoids, index.members, strict=True):
        assert medoid in cluster
        assert len({clustered[entry_id].group for entry_id in cluster}) == 1
    [(nearest, similarity)] = index.nearest(clustered["c3-2"].feature("mean"), 1)
    assert nearest == "c3-2"
    assert similarity == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("wanted", ["c0-0", "c2-5", "c4-7"])
def test_two_layers_find_what_the_exhaustive_search_finds(
    clustered: PromptBank, wanted: str
) -> None:
    index = build_index(clustered, "mean")
    score = Distance(clustered[wanted].prompt)
    found = lookup(clustered, index, score, 16, clock=still)
    every = Distance(clustered[wanted].prompt)
    best = lookup(clustered, index, every, 16, clock=still, exhaustive=True)
    assert found.choice.name == best.choice.name == wanted
    assert found.evaluated == score.passes
    assert found.evaluated < every.passes / 2
    assert wanted in found.why
    assert found.candidates[0].name == wanted
    assert found.candidates[0].samples == 16


def test_no_sample_is_scored_twice_and_means_add_up(clustered: PromptBank) -> None:
    index = build_index(clustered, "mean")
    seen: dict[bytes, list[int]] = {}

    def score(prompts: np.ndarray, samples: range) -> np.ndarray:
        for prompt in prompts:
            seen.setdefault(prompt.tobytes(), []).extend(samples)
        return np.full(len(prompts), np.mean(samples))

    found = lookup(clustered, index, score, 16, clock=still)
    assert all(len(used) == len(set(used)) for used in seen.values())
    assert found.candidates[0].loss == pytest.approx(np.mean(range(16)))


def test_the_tasks_own_words_win_when_they_are_better(clustered: PromptBank) -> None:
    index = build_index(clustered, "mean")
    own = Candidate("text:instruction", "instruction", np.full((2, 6), 9.0, dtype=np.float32))
    score = Distance(own.prompt)
    found = lookup(clustered, index, score, 16, candidates_extra=[own], clock=still)
    assert (found.choice.kind, found.choice.name) == ("instruction", "text:instruction")


def test_a_private_prompt_is_never_offered_to_another_tenant(
    clustered: PromptBank, make: Make
) -> None:
    """Neither chosen nor listed, though it is the best, is a medoid and the index knows it."""
    secret = make("secret", tenant="blue", prompt=np.full((2, 6), 5.0, dtype=np.float32))
    bank, _ = clustered.add([secret])
    bank = bank.with_features("mean", mean_embeddings)
    index = build_index(bank, "mean")
    for tenant, offered in (("blue", True), ("red", False), (None, False)):
        score = Distance(secret.prompt)
        found = lookup(bank.visible_to(tenant), index, score, 16, clock=still)
        assert ("secret" in {c.name for c in found.candidates}) == offered
        assert (found.choice.name == "secret") == offered
        assert ("secret" in found.why) == offered


def test_entries_newer_than_the_index_are_candidates(clustered: PromptBank, make: Make) -> None:
    index = build_index(clustered, "mean")
    new = make("new", prompt=np.full((2, 6), 7.0, dtype=np.float32))
    bank, _ = clustered.add([new])
    assert lookup(bank, index, Distance(new.prompt), 16, clock=still).choice.name == "new"


def test_the_budget_ends_the_rounds(clustered: PromptBank) -> None:
    def ticking() -> Iterator[float]:
        now = 0.0
        while True:
            now += 1.0
            yield now

    index = build_index(clustered, "mean")
    clock = ticking()
    score = Distance(clustered["c1-1"].prompt)
    found = lookup(clustered, index, score, 16, budget_s=2.5, clock=lambda: next(clock))
    assert "stopped at the budget" in found.why
    full = Distance(clustered["c1-1"].prompt)
    lookup(clustered, index, full, 16, clock=still)
    assert score.passes < full.passes


def test_a_prompt_whose_loss_is_no_number_is_never_chosen(clustered: PromptBank) -> None:
    def score(prompts: np.ndarray, samples: range) -> np.ndarray:
        losses = prompts.reshape(len(prompts), -1).sum(1).astype(np.float64)
        losses[losses < np.median(losses)] = np.nan
        return losses

    found = lookup(clustered, build_index(clustered, "mean"), score, 16, clock=still)
    assert np.isfinite(found.candidates[0].loss)


@pytest.mark.parametrize("samples", [1, 3, 5, 16])
def test_few_samples_are_enough_to_run(clustered: PromptBank, samples: int) -> None:
    score = Distance(clustered["c1-1"].prompt)
    found = lookup(clustered, build_index(clustered, "mean"), score, samples, clock=still)
    assert found.choice.name == "c1-1"
    assert found.candidates[0].samples == samples


def test_a_single_candidate_is_chosen(make: Make) -> None:
    bank = PromptBank((make("a"),))
    found = lookup(bank, None, lambda prompts, _: np.ones(len(prompts)), 4, clock=lambda: 0.0)
    assert found.choice.name == "a"
    assert "next" not in found.why


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(BankError, match="nothing to look up"):
        lookup(PromptBank(), None, Distance(np.zeros(1)), 16, clock=still)
    with pytest.raises(BankError, match="empty bank"):
        build_index(PromptBank(), "mean")


def test_the_index_says_when_it_no_longer_fits(clustered: PromptBank, make: Make) -> None:
    index = build_index(clustered, "mean", clusters=5)
    assert index.stale_because(clustered) is None
    shrunk = clustered.without(f"c0-{number}" for number in range(8))
    shrunk = shrunk.without(f"c1-{number}" for number in range(8))
    assert "16 went" in str(index.stale_because(shrunk))
    alien = make("alien", seed=1, prompt=-10 * clustered["c0-0"].prompt)
    drifted = clustered.add([alien])[0].with_features("mean", mean_embeddings)
    assert "medoids" in str(index.stale_because(drifted))


class _Gpus:
    """faiss as it is built with CUDA, with one device that keeps what it is given."""

    def __init__(self, faiss: Any) -> None:
        self.moved = 0
        self._faiss = faiss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faiss, name)

    def get_num_gpus(self) -> int:
        return 1

    def index_cpu_to_all_gpus(self, flat: Any) -> Any:
        self.moved += 1
        return flat


def test_vectors_are_searched_on_a_gpu_where_there_is_one(
    clustered: PromptBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maitre.bank import index as module

    gpus = _Gpus(module.faiss)
    monkeypatch.setattr(module, "faiss", gpus)
    vector = clustered.entries[3].feature("mean")
    on_cpu = build_index(clustered, "mean", device="cpu")
    assert gpus.moved == 0
    anywhere = build_index(clustered, "mean")
    assert gpus.moved == 1
    assert on_cpu.nearest(vector, 3) == anywhere.nearest(vector, 3)
