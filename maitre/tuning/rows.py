"""Batches of examples, with the frozen keys and values of their inputs where those are cached.

An example's input does not depend on a soft prompt that stands after it (`position="suffix"`), so
its keys and values are those of the frozen model: computed once, and every later pass feeds only
the virtual tokens and the answer.
"""

import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from maitre.tuning.config import Position
from maitre.tuning.encoding import EncodedExample

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel

PACK_TOKENS = defaultdict(lambda: 8192, cpu=256)
"""Input tokens that pass through the model together, by kind of device: a CPU's caches are small,
and every token of a pass is compared with every other."""

IGNORED = -100
"""Fills the places of `answers` after an answer's end."""


@dataclass(frozen=True)
class RowBatch:
    """Examples that pass through the model together.

    `answers [rows, longest answer]` is right-padded with `IGNORED`; `lengths [rows]` counts input
    tokens. `keys_values` is `[layers, 2, rows, kv heads, longest input, head size]`, right-padded,
    or `None` where the inputs go through the model in every pass.
    """

    examples: tuple[EncodedExample, ...]
    answers: torch.Tensor
    lengths: torch.Tensor
    keys_values: torch.Tensor | None

    def rows(self, part: slice) -> "RowBatch":
        """Return some of the rows."""
        kv = self.keys_values
        return RowBatch(
            examples=self.examples[part],
            answers=self.answers[part],
            lengths=self.lengths[part],
            keys_values=None if kv is None else kv[:, :, part],
        )


class InputCache:
    """Makes batches of examples, keeping the keys and values of their inputs.

    Inputs pass through the model in `groups` of examples (by default each alone). A group passes
    when a batch first needs one of its members. Rounding depends on what is computed together, so a
    row's values do not depend on the batches that were made before. Groups that would exceed
    `limit_bytes`, in the order given, are not kept: their members are computed alone, every time.
    """

    def __init__(
        self,
        model: "BaseModel",
        examples: Sequence[EncodedExample],
        position: Position,
        limit_bytes: int,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._model = model
        self._examples = tuple(examples)
        self._cached = position == "suffix" and model.passes.is_fast
        self._kept: dict[int, torch.Tensor] = {}
        self._group_of: dict[int, Sequence[int]] = {}
        per_token = bytes_per_token(model) if self._cached else 0
        left = limit_bytes
        for group in groups if groups is not None else [[i] for i in range(len(self._examples))]:
            left -= per_token * sum(len(self._examples[index].input_ids) for index in group)
            if left < 0:
                break
            self._group_of.update(dict.fromkeys(group, group))

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, indices: Sequence[int]) -> RowBatch:
        """Return the examples at `indices`, in that order."""
        examples = tuple(self._examples[index] for index in indices)
        if not self._cached:
            return _row_batch(self._model, examples, None)
        return _row_batch(self._model, examples, [self._keys_values(index) for index in indices])

    def _keys_values(self, index: int) -> torch.Tensor:
        if index not in self._group_of:
            return input_keys_values(self._model, [self._examples[index]])[0]
        if index not in self._kept:
            fill_together(self._model, [(self, [index])])
        return self._kept[index]

    def lacking(self, indices: Sequence[int]) -> dict[int, EncodedExample]:
        """Return the examples whose keys and values must be computed before batching."""
        wanted = (self._group_of.get(i, ()) for i in indices if i not in self._kept)
        return {i: self._examples[i] for group in wanted for i in group}

    def keep(self, computed: dict[int, torch.Tensor]) -> None:
        """Keep the keys and values of some examples."""
        self._kept.update(computed)


def fill_together(model: "BaseModel", wanted: Sequence[tuple[InputCache, Sequence[int]]]) -> None:
    """Compute what several caches lack of some examples, in the fewest possible passes."""
    lacking: dict[int, tuple[InputCache, dict[int, EncodedExample]]] = {}
    for cache, indices in wanted:
        _, known = lacking.get(id(cache), (cache, {}))
        lacking[id(cache)] = cache, known | cache.lacking(indices)
    examples = [example for _, found in lacking.values() for example in found.values()]
    computed = iter(input_keys_values(model, examples))
    for cache, found in lacking.values():
        cache.keep({index: next(computed) for index in found})


def fixed_batches(
    model: "BaseModel",
    examples: Sequence[EncodedExample],
    position: Position,
    batch_rows: int,
    batch_tokens: int,
) -> list[RowBatch]:
    """Return all examples in batches of similar length, for repeated passes.

    No batch has more than `batch_rows` rows, nor more than `batch_tokens` tokens with its padding,
    except a batch of a single longer row.
    """
    groups = groups_of_like_length(examples, batch_tokens, batch_rows)
    # One at a time: a batch copies its rows, so the cache need not outlive it.
    return [_fixed_batch(model, examples, group, position) for group in groups]


def _fixed_batch(
    model: "BaseModel", examples: Sequence[EncodedExample], group: Sequence[int], position: Position
) -> RowBatch:
    """Return one batch whose inputs pass through the model together."""
    members = [examples[index] for index in group]
    # All inputs of one batch are kept: their size was bounded when the batch was made.
    cache = InputCache(model, members, position, sys.maxsize, groups=[range(len(members))])
    return cache.batch(range(len(members)))


def joined(model: "BaseModel", batches: Sequence[RowBatch]) -> RowBatch:
    """Return several batches as one, rows in the given order."""
    if len(batches) == 1:
        return batches[0]
    examples = tuple(example for batch in batches for example in batch.examples)
    if any(batch.keys_values is None for batch in batches):
        return _row_batch(model, examples, None)
    rows = [
        batch.keys_values[:, :, row, :, : len(example.input_ids)]
        for batch in batches
        if batch.keys_values is not None
        for row, example in enumerate(batch.examples)
    ]
    return _row_batch(model, examples, rows)


def repeated(batch: RowBatch, times: int) -> RowBatch:
    """Return the rows of a batch `times` times, one whole batch after another."""
    if times == 1:
        return batch
    kv = batch.keys_values
    return RowBatch(
        examples=batch.examples * times,
        answers=batch.answers.repeat(times, 1),
        lengths=batch.lengths.repeat(times),
        keys_values=None if kv is None else kv.repeat(1, 1, times, 1, 1, 1),
    )


def bytes_per_token(model: "BaseModel") -> int:
    """Return the size of one input token's keys and values over all layers."""
    config = model.text_config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


@torch.no_grad()
def input_keys_values(model: "BaseModel", examples: Sequence[EncodedExample]) -> list[torch.Tensor]:
    """Return frozen keys and values of inputs, each `[layers, 2, kv heads, length, head size]`.

    Inputs stand end to end in one sequence, without padding; none sees another.
    """
    found: list[torch.Tensor] = []
    for group in _packs(examples, PACK_TOKENS[model.device.type]):
        lengths = torch.tensor([len(example.input_ids) for example in group])
        owner = torch.repeat_interleave(torch.arange(len(group)), lengths)
        places = torch.cat([torch.arange(length) for length in lengths])
        seen = (owner[:, None] == owner[None, :]) & (places[:, None] >= places[None, :])
        ids = torch.tensor([token for example in group for token in example.input_ids])
        cache = DynamicCache()
        model.model.get_decoder()(
            ids[None].to(model.device),
            attention_mask=seen[None, None].to(model.device),
            position_ids=places[None].to(model.device),
            **cache_argument(model.model.get_decoder(), cache),
            use_cache=True,
        )
        stacked = torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
        found += [part.clone() for part in stacked[:, :, 0].split(lengths.tolist(), dim=3)]
    return found


def cache_argument(model: Any, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Return the cache under the name that `model` takes it by.

    transformers renamed `past_key_values` to `cache` in 5.24, one architecture after another.
    """
    is_new = "cache" in inspect.signature(model.forward).parameters
    return {"cache" if is_new else "past_key_values": cache}


def _packs(
    examples: Sequence[EncodedExample], pack_tokens: int
) -> Iterator[Sequence[EncodedExample]]:
    """Yield neighbours whose inputs have at most `pack_tokens` together, or one longer input."""
    begin, tokens = 0, 0
    for place, example in enumerate(examples):
        if place > begin and tokens + len(example.input_ids) > pack_tokens:
            yield examples[begin:place]
            begin, tokens = place, 0
        tokens += len(example.input_ids)
    if begin < len(examples):
        yield examples[begin:]


class FrozenInputLayer(DynamicLayer):
    """One layer's cached inputs, to which a pass adds its own tokens without keeping them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values to attend to: first the inputs', then those of this pass."""
        keys = torch.cat([self.keys, key_states], dim=-2)
        return keys, torch.cat([self.values, value_states], dim=-2)


def _row_batch(
    model: "BaseModel",
    examples: tuple[EncodedExample, ...],
    keys_values: Sequence[torch.Tensor] | None,
) -> RowBatch:
    answers = np.full((len(examples), max(len(e.answer_ids) for e in examples)), IGNORED)
    for row, example in enumerate(examples):
        answers[row, : len(example.answer_ids)] = example.answer_ids
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    return RowBatch(
        examples=examples,
        answers=torch.from_numpy(answers).to(model.device),
        lengths=lengths.to(model.device),
        keys_values=None if keys_values is None else _stack_padded(keys_values),
    )


def _stack_padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack rows `[layers, 2, kv heads, length, head size]`, with zeros after each row's end."""
    layers, two, heads, _, size = rows[0].shape
    longest = max(row.shape[3] for row in rows)
    stacked = rows[0].new_zeros((layers, two, len(rows), heads, longest, size))
    for index, row in enumerate(rows):
        stacked[:, :, index, :, : row.shape[3]] = row
    return stacked


def groups_of_like_length(
    examples: Sequence[EncodedExample], batch_tokens: int, batch_rows: int
) -> list[list[int]]:
    """Return the places of all examples in groups of bounded padded size, shortest first."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    groups: list[list[int]] = []
    longest_answer = 0
    for index in order:
        answer = len(examples[index].answer_ids)
        grown = max(longest_answer, answer)
        length = len(examples[index].input_ids) + grown
        is_full = bool(groups) and len(groups[-1]) >= batch_rows
        if groups and not is_full and (len(groups[-1]) + 1) * length <= batch_tokens:
            groups[-1].append(index)
            longest_answer = grown
        else:
            groups.append([index])
            longest_answer = answer
    return groups
