"""What the bank takes in, refuses, shows and drops."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitre.bank.bank import PromptBank, mean_embeddings
from maitre.bank.entry import BankEntry, BankError, entry_id

from .conftest import entry

Make = Callable[..., BankEntry]


def test_near_duplicates_are_rejected_and_say_of_what(make: Make) -> None:
    first = make("a")
    twin = make("b", prompt=first.prompt * 1.0001)
    bank, rejected = PromptBank().add([first, twin, make("c")])
    assert [e.entry_id for e in bank] == ["a", "c"]
    assert [r.entry_id for r in rejected] == ["b"]
    assert "near duplicate of a" in rejected[0].why


def test_a_near_duplicate_of_another_tenants_private_prompt_is_no_duplicate(make: Make) -> None:
    """Rejecting it would tell one tenant what another has."""
    private = make("a", tenant="blue")
    bank, rejected = PromptBank().add([private, make("b", prompt=private.prompt, tenant="red")])
    assert len(bank) == 2
    assert not rejected


def test_another_tenants_copy_neither_takes_over_a_private_prompt_nor_meets_its_id(
    make: Make,
) -> None:
    prompt = make("a").prompt
    ids = {tenant: entry_id("t", prompt, tenant) for tenant in ("blue", "red", None)}
    assert len(set(ids.values())) == 3
    copies = [make(ids[tenant], prompt=prompt, tenant=tenant) for tenant in ids]
    bank, rejected = PromptBank().add(copies)
    assert (len(bank), rejected) == (3, ())
    forged = make(ids["blue"], prompt=prompt, tenant="red")
    after, [refused] = bank.add([forged])
    assert after[ids["blue"]].tenant == "blue"
    assert "blue" not in refused.why


def test_the_same_prompt_again_updates_its_facts(make: Make) -> None:
    bank, _ = PromptBank().add([make("a")])
    bank, rejected = bank.add([make("a", ita=12.0)])
    assert (len(bank), bank["a"].ita, rejected) == (1, 12.0, ())
    bank, rejected = bank.add([make("a", seed=99)])
    assert "taken" in rejected[0].why


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base_model_hash": "x" * 64}, "base_model_hash"),
        ({"tokenizer_hash": "x" * 64}, "tokenizer_hash"),
        ({"position": "prefix"}, "position"),
        ({"prompt": np.zeros((3, 6), dtype=np.float32)}, r"\(3, 6\)"),
    ],
)
def test_what_does_not_fit_the_bank_is_refused(make: Make, change: dict, word: str) -> None:
    bank, _ = PromptBank().add([make("a")])
    with pytest.raises(BankError, match=word):
        bank.add([make("b", **change)])


def test_another_model_or_prompt_size_is_refused(make: Make) -> None:
    bank = PromptBank((make("a"),))
    bank.check_model("m" * 64, "t" * 64)
    bank.check_prompts(2, "suffix")
    with pytest.raises(BankError, match="base model"):
        bank.check_model("x" * 64, "t" * 64)
    with pytest.raises(BankError, match="tokenizer"):
        bank.check_model("m" * 64, "x" * 64)
    with pytest.raises(BankError, match="virtual tokens"):
        bank.check_prompts(8, "suffix")
    PromptBank().check_model("anything", "at all")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt": np.zeros(6, dtype=np.float32)}, "two axes"),
        ({"prompt": np.zeros((2, 6))}, "float64"),
        ({"prompt": np.full((2, 6), np.nan, dtype=np.float32)}, "not finite"),
        ({"entry_id": "a/b"}, "id"),
        ({"created_at": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_an_entry_checks_itself(make: Make, change: dict, word: str) -> None:
    with pytest.raises(BankError, match=word):
        make(**({"name": "a"} | change))


@given(st.lists(st.sampled_from([None, "blue", "red"]), max_size=12))
def test_a_tenant_sees_the_public_and_its_own_prompts_only(tenants: list[str | None]) -> None:
    bank = PromptBank(
        tuple(entry(f"e{i}", seed=i, tenant=tenant) for i, tenant in enumerate(tenants))
    )
    for tenant in (None, "blue", "red", "nobody"):
        seen = {e.entry_id for e in bank.visible_to(tenant)}
        own = {f"e{i}" for i, owner in enumerate(tenants) if owner in (None, tenant)}
        assert seen == own


def test_eviction_drops_the_least_useful_and_spares_the_untried(make: Make) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    bank = PromptBank(
        (
            make("useless", seed=1, benefit=0.0, uses=3, created_at=now),
            make("untried", seed=2, created_at=now),
            make("useful", seed=3, benefit=30.0, uses=3, created_at=now),
            make("older", seed=4, benefit=0.0, uses=1, created_at=now - timedelta(days=1)),
        )
    )
    assert {e.entry_id for e in bank.evicted_to(3)} == {"useless", "untried", "useful"}
    assert {e.entry_id for e in bank.evicted_to(2)} == {"untried", "useful"}
    assert bank.evicted_to(9) is bank


def test_benefit_is_the_mean_over_uses(make: Make) -> None:
    used = make("a").with_use(10.0).with_use(20.0)
    assert (used.uses, used.benefit) == (2, 15.0)


def test_features_are_computed_once(make: Make) -> None:
    bank = PromptBank((make("a"), make("b", seed=1)))
    asked: list[int] = []

    def compute(prompts: np.ndarray) -> np.ndarray:
        asked.append(len(prompts))
        return mean_embeddings(prompts)

    bank = bank.with_features("mean", compute).with_features("mean", compute)
    bank, _ = bank.add([make("c", seed=2)])
    bank = bank.with_features("mean", compute)
    assert asked == [2, 1]
    np.testing.assert_allclose(bank["c"].feature("mean"), bank["c"].prompt.mean(0), rtol=1e-6)
    with pytest.raises(BankError, match=r"no feature 'other'.*mean"):
        bank["a"].feature("other")


def test_ids_follow_from_task_and_values() -> None:
    prompt = np.ones((2, 3), dtype=np.float32)
    assert entry_id("x", prompt) == entry_id("x", prompt.copy())
    assert entry_id("x", prompt) != entry_id("x", prompt * 2)
    assert entry_id("x", prompt).startswith("x-")


def test_an_unknown_entry_is_named(make: Make) -> None:
    with pytest.raises(BankError, match="'z'"):
        PromptBank((make("a"),))["z"]
    with pytest.raises(BankError, match="twice"):
        PromptBank((make("a"), make("a")))


def test_a_bank_of_another_tokenizer_counts_as_empty_with_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bank = PromptBank((make("a"),))
    assert bank.of_model("m" * 64, "t" * 64) is bank
    assert len(bank.of_model("m" * 64, "x" * 64)) == 0
    assert "another tokenizer" in caplog.text
    with pytest.raises(BankError, match="base model"):
        bank.of_model("x" * 64, "x" * 64)
    assert len(PromptBank().of_model("anything", "at all")) == 0
