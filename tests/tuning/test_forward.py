"""Cached, uncached and padded passes say the same; accuracy is what greedy decoding gives."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from maitre.tuning.base_model import BaseModel
from maitre.tuning.encoding import encode
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import (
    InputCache,
    RowBatch,
    bytes_per_token,
    cache_argument,
    joined,
    repeated,
)
from maitre.tuning.soft_prompt import random_init
from maitre.tuning.tasks import Task


def prompts_for(model: BaseModel, rows: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([random_init(model, 3, seed) for seed in range(rows)]))


def without_cache(batch: RowBatch) -> RowBatch:
    return RowBatch(batch.examples, batch.answers, batch.lengths, None)


@pytest.mark.parametrize("name", ["colours", "sizes"])
def test_cached_inputs_give_the_losses_and_gradients_of_whole_passes(
    tiny: BaseModel, name: str, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(name)
    examples = encode(tiny, task, 3).eval + encode(tiny, task, 3).train
    batch = InputCache(tiny, examples, "suffix", limit_bytes=0).batch(range(len(examples)))
    assert batch.keys_values is not None
    prompts = prompts_for(tiny, len(examples)).requires_grad_()

    cached, exact = answer_losses(tiny, prompts, batch, "suffix")
    [gradient] = torch.autograd.grad(cached.sum(), prompts)
    whole, exact_whole = answer_losses(tiny, prompts, without_cache(batch), "suffix")
    [gradient_whole] = torch.autograd.grad(whole.sum(), prompts)

    torch.testing.assert_close(cached, whole)
    torch.testing.assert_close(gradient, gradient_whole, rtol=1e-3, atol=1e-4)
    assert torch.equal(exact, exact_whole)


@pytest.mark.parametrize("position", ["suffix", "prefix"])
def test_a_row_does_not_depend_on_the_rows_beside_it(
    tiny: BaseModel, sizes: Task, position: str
) -> None:
    examples = encode(tiny, sizes, 3).train
    cache = InputCache(tiny, examples, position, limit_bytes=1 << 20)
    prompts = prompts_for(tiny, len(examples))
    together, _ = answer_losses(tiny, prompts, cache.batch(range(len(examples))), position)
    alone = [
        answer_losses(tiny, prompts[row : row + 1], cache.batch([row]), position)[0]
        for row in range(len(examples))
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_prefix_and_suffix_are_different_inputs(tiny: BaseModel, colours: Task) -> None:
    examples = encode(tiny, colours, 3).train
    batch = InputCache(tiny, examples, "prefix", limit_bytes=0).batch(range(len(examples)))
    prompts = prompts_for(tiny, len(examples))
    suffix, _ = answer_losses(tiny, prompts, batch, "suffix")
    prefix, _ = answer_losses(tiny, prompts, batch, "prefix")
    assert not torch.allclose(suffix, prefix)


def test_losses_are_those_of_a_plain_pass_over_one_row(tiny: BaseModel, sizes: Task) -> None:
    example = encode(tiny, sizes, 3).train[0]
    assert len(example.answer_ids) == 3  # two words and the end
    prompt = prompts_for(tiny, 1)
    batch = InputCache(tiny, [example], "suffix", limit_bytes=0).batch([0])
    loss, exact = answer_losses(tiny, prompt, batch, "suffix")

    ids = torch.tensor([example.input_ids + example.answer_ids])
    embedded = tiny.embeddings[ids]
    cut = len(example.input_ids)
    whole = torch.cat([embedded[:, :cut], prompt, embedded[:, cut:]], dim=1)
    logits = tiny.model(inputs_embeds=whole).logits[0, cut + 2 : -1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, cut:])
    torch.testing.assert_close(loss[0], expected)
    assert bool(exact[0]) == (logits.argmax(-1).tolist() == list(example.answer_ids))


def test_joined_and_repeated_batches_hold_the_rows_in_order(tiny: BaseModel, sizes: Task) -> None:
    examples = encode(tiny, sizes, 3).train
    cache = InputCache(tiny, examples, "suffix", limit_bytes=1 << 20)
    prompts = prompts_for(tiny, 4)
    expected, _ = answer_losses(tiny, prompts, cache.batch([0, 1, 0, 1]), "suffix")
    split = joined(tiny, [cache.batch([0]), cache.batch([1, 0]), cache.batch([1])])
    for batch in (split, repeated(cache.batch([0, 1]), 2)):
        found, _ = answer_losses(tiny, prompts, batch, "suffix")
        torch.testing.assert_close(found, expected)


def test_only_groups_within_the_limit_are_kept(tiny: BaseModel, colours: Task) -> None:
    examples = encode(tiny, colours, 3).train
    one_token = bytes_per_token(tiny)
    assert one_token == 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    limit = one_token * len(examples[0].input_ids)
    cache = InputCache(tiny, examples, "suffix", limit, [[0], [1, 2]])
    first = cache.batch([0, 1, 2])
    again = cache.batch([0, 1, 2])
    assert first.keys_values is not None
    assert again.keys_values is not None
    torch.testing.assert_close(first.keys_values, again.keys_values)
    assert set(cache._kept) == {0}


class OldNames(torch.nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class NewNames(torch.nn.Module):
    def forward(self, input_ids: Any, cache: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("model", "name"), [(OldNames(), "past_key_values"), (NewNames(), "cache")]
)
def test_the_cache_is_given_by_the_name_that_the_architecture_has(
    model: torch.nn.Module, name: str
) -> None:
    cache = DynamicCache()
    assert cache_argument(model, cache) == {name: cache}
