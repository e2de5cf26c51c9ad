"""The lookup over the bank and the task's own words, on a model."""

from datetime import UTC, datetime

import numpy as np
import pytest

from maitre.bank.bank import PromptBank
from maitre.bank.entry import BankEntry, BankError, entry_id
from maitre.bank.index import build_index
from maitre.bank.lookup import Lookup
from maitre.tuning.base_model import BaseModel
from maitre.tuning.candidates import MEAN_OF_BANK
from maitre.tuning.config import TuneConfig
from maitre.tuning.encoding import encode
from maitre.tuning.probe import probe_losses
from maitre.tuning.prompt_scores import PromptScorer, output_distributions
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.start import find_start, label_entropy
from maitre.tuning.tasks import Task
from maitre.tuning.tune import tune

CONFIG = TuneConfig(virtual_tokens=3, learning_rate=0.1, batch_size=4, max_iterations=30)


def entry_of(model: BaseModel, task: str, prompt: np.ndarray, tenant: str | None) -> BankEntry:
    return BankEntry(
        entry_id=entry_id(task, prompt),
        prompt=prompt,
        task=task,
        description=task,
        base_model=model.name,
        base_model_hash=model.hash,
        tokenizer_hash=model.tokenizer_hash,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        tenant=tenant,
    )


@pytest.fixture
def bank(tiny: BaseModel, colours: Task) -> PromptBank:
    """Eleven random prompts and one that was tuned for the very task, which is private."""
    tuned = tune(tiny, colours, init=None, config=CONFIG, seed=0).prompt
    entries = [entry_of(tiny, f"r{seed}", random_init(tiny, 3, seed), None) for seed in range(11)]
    bank, _ = PromptBank().add([*entries, entry_of(tiny, "tuned", tuned, "blue")])
    return bank.with_features("outputs", lambda p: output_distributions(tiny, p, "suffix"))


def test_the_prompt_tuned_for_the_task_is_found_by_who_may_see_it(
    tiny: BaseModel, colours: Task, bank: PromptBank
) -> None:
    index = build_index(bank, "outputs")
    found = find_start(
        tiny, colours, bank, index, config=CONFIG, seed=1, tenant="blue", clock=lambda: 0.0
    )
    assert found.candidates[0].name.startswith("tuned-")
    assert {"text:instruction", "text:description", "random"} <= {c.name for c in found.candidates}
    for tenant in ("red", None):
        other = find_start(
            tiny, colours, bank, index, config=CONFIG, seed=1, tenant=tenant, clock=lambda: 0.0
        )
        assert not any(c.name.startswith("tuned-") for c in other.candidates)


def test_to_others_a_private_prompt_might_as_well_not_be_there(
    tiny: BaseModel, colours: Task, bank: PromptBank
) -> None:
    public = bank.without(entry.entry_id for entry in bank if entry.tenant == "blue")
    assert len(public) == len(bank) - 1
    seen, known = (
        find_start(
            tiny,
            colours,
            prompts,
            config=CONFIG,
            seed=1,
            tenant="red",
            sure_iterations=0,
            clock=lambda: 0.0,
        )
        for prompts in (bank, public)
    )
    # Mixtures included: the mean of the bank is the mean of what the tenant sees.
    assert (seen.why, seen.candidates) == (known.why, known.candidates)
    np.testing.assert_array_equal(seen.choice.prompt, known.choice.prompt)


def test_without_a_bank_the_own_words_are_the_candidates(tiny: BaseModel, sizes: Task) -> None:
    found = find_start(tiny, sizes, PromptBank(), config=CONFIG, seed=1)
    assert {c.name for c in found.candidates} == {"text:description", "random"}


def test_a_bank_of_another_model_or_kind_of_prompt_is_refused(
    tiny: BaseModel, colours: Task
) -> None:
    prompt = random_init(tiny, 3, 0)
    other = entry_of(tiny, "x", prompt, None)
    alien = BankEntry(**(vars(other) | {"base_model_hash": "0" * 64}))
    with pytest.raises(BankError, match="base model"):
        find_start(tiny, colours, PromptBank((alien,)), config=CONFIG, seed=0)
    four = entry_of(tiny, "x", random_init(tiny, 4, 0), None)
    with pytest.raises(BankError, match="virtual tokens"):
        find_start(tiny, colours, PromptBank((four,)), config=CONFIG, seed=0)


def test_scores_are_the_losses_of_each_prompt_alone(tiny: BaseModel, colours: Task) -> None:
    examples = encode(tiny, colours, 3).train
    scorer = PromptScorer(tiny, examples, "suffix")
    prompts = np.stack([random_init(tiny, 3, seed) for seed in range(40)])
    together = scorer(prompts, range(1, 3))
    alone = np.concatenate([scorer(prompts[i : i + 1], range(1, 3)) for i in range(40)])
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_equal_prompts_have_equal_output_distributions(tiny: BaseModel) -> None:
    prompts = np.stack([random_init(tiny, 3, seed) for seed in (0, 1, 0)])
    vectors = output_distributions(tiny, prompts, "suffix", probes=("red", "the big sky"))
    assert vectors.shape == (3, 64)
    np.testing.assert_allclose(vectors[0], vectors[2], rtol=1e-4)
    assert not np.allclose(vectors[0], vectors[1])


def test_probing_chooses_by_what_a_few_steps_bring(
    tiny: BaseModel, colours: Task, bank: PromptBank
) -> None:
    def find(**options: int | float) -> Lookup:
        return find_start(tiny, colours, bank, config=CONFIG, seed=1, tenant="blue", **options)

    sure = find(probe_iterations=3, sure_iterations=100)
    assert "after probing" not in sure.why
    assert sure.choice.name.startswith("tuned-")
    found = find(probe_iterations=3, sure_iterations=0)
    names = {candidate.name for candidate in found.finalists}
    assert {"text:instruction", "random", found.choice.name} <= names
    assert "after probing" in found.why
    assert found.predicted_iterations is not None
    assert found.probed_loss is not None
    losses = probe_losses(
        tiny, colours, [c.prompt for c in found.finalists], config=CONFIG, iterations=3, seed=1
    )
    assert found.probed_loss == pytest.approx(losses[0], rel=1e-3)
    assert found.choice.name == found.finalists[0].name
    assert "after probing" not in find(sure_iterations=0).why
    assert "after probing" not in find(probe_iterations=3, sure_iterations=0, budget_s=0.0).why


def test_where_no_prompt_is_related_the_mean_of_the_bank_is_the_start(
    tiny: BaseModel, colours: Task, bank: PromptBank
) -> None:
    strangers = bank.without(entry.entry_id for entry in bank if entry.tenant == "blue")
    found = find_start(tiny, colours, strangers, config=CONFIG, seed=1)
    losses = {candidate.name: candidate.loss for candidate in found.candidates}
    assert min(losses.values()) > 3 * label_entropy(colours)
    assert found.choice.name == MEAN_OF_BANK
    assert found.probed_loss is None
    np.testing.assert_allclose(found.choice.prompt, strangers.prompts().mean(0), rtol=1e-5)
