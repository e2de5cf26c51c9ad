"""One pass of the frozen model over a batch of examples, each with a soft prompt of its own."""

from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from maitre.tuning.config import Position
from maitre.tuning.rows import IGNORED, FrozenInputLayer, RowBatch, cache_argument

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel


def answer_losses(
    model: "BaseModel", prompts: torch.Tensor, batch: RowBatch, position: Position
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how well each row's answer follows from its input and soft prompt.

    `prompts` is `[rows, virtual_tokens, hidden]`. Returns the mean negative log-likelihood of each
    row's answer tokens (float32 `[rows]`, differentiable in `prompts`) and whether greedy decoding
    would give exactly that answer (bool `[rows]`).
    """
    return answer_row_losses(answer_logits(model, prompts, batch, position), batch.answers)


def answer_row_losses(
    logits: torch.Tensor, answers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's mean loss, and whether greedy decoding gives exactly its answer.

    `logits [answer tokens of all rows, vocabulary]` predict the tokens of `answers [rows, tokens]`
    that are not `IGNORED`.
    """
    wanted = answers != IGNORED
    tokens = answers[wanted]
    negative_log = answers.new_zeros(wanted.shape, dtype=torch.float32)
    negative_log[wanted] = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    # Greedy decoding follows the answer as long as each of its tokens is the likeliest.
    exact = torch.ones_like(wanted)
    exact[wanted] = logits.argmax(-1) == tokens
    return negative_log.sum(1) / wanted.sum(1), exact.all(1)


def answer_logits(
    model: "BaseModel", prompts: torch.Tensor, batch: RowBatch, position: Position
) -> torch.Tensor:
    """Return float32 logits `[answer tokens of all rows, vocabulary]` at the predicting places.

    Rows follow one another; a row's own answer tokens are in order.
    """
    prompts = prompts.to(model.dtype)
    if batch.keys_values is not None:
        return _logits_after_cache(model, prompts, batch, batch.keys_values)
    if model.passes.is_fast:
        return _logits_of_all(model, prompts, batch, position)
    return _plain_logits(model, prompts, batch, position)


def _last_places(batch: RowBatch, tokens: int) -> torch.Tensor:
    """Return the places that predict answer tokens, in passes with aligned answers."""
    rows, answer = batch.answers.shape
    places = batch.answers.new_zeros((rows, tokens), dtype=torch.bool)
    places[:, -answer:] = batch.answers != IGNORED
    return places


def _logits_after_cache(
    model: "BaseModel", prompts: torch.Tensor, batch: RowBatch, keys_values: torch.Tensor
) -> torch.Tensor:
    """Return the logits of virtual tokens and answer (without its last token) after the cache."""
    fed = torch.cat([prompts, _answer_embeddings(model, batch)], dim=1)
    rows, tokens, _ = fed.shape
    longest = keys_values.shape[4]
    places = torch.arange(longest + tokens, device=model.device)
    # Padding lies between the inputs and the tokens of this pass.
    mask = (places[None, :] < batch.lengths[:, None]) | (places[None, :] >= longest)
    cache = DynamicCache()
    cache.layers = [FrozenInputLayer(layer[0], layer[1]) for layer in keys_values]
    return model.logits(
        _last_places(batch, tokens),
        inputs_embeds=fed,
        attention_mask=mask.long().expand(rows, -1),
        position_ids=batch.lengths[:, None] + torch.arange(tokens, device=model.device)[None, :],
        **cache_argument(model.model, cache),
        use_cache=True,
    ).float()


def _logits_of_all(
    model: "BaseModel", prompts: torch.Tensor, batch: RowBatch, position: Position
) -> torch.Tensor:
    """Return logits with input and virtual tokens padded on the left, so that answers align."""
    virtual = prompts.shape[1]
    longest = int(batch.lengths.max())
    heads, mask = [], []
    for row, example in enumerate(batch.examples):
        ids = torch.tensor(example.input_ids, device=model.device)
        padding = longest - len(example.input_ids)
        parts = [prompts[row], model.embed(ids)]
        if position == "suffix":
            parts.reverse()
        heads.append(torch.cat([prompts.new_zeros((padding, prompts.shape[2])), *parts]))
        mask.append([0] * padding + [1] * (longest - padding + virtual))
    answers = _answer_embeddings(model, batch)
    fed = torch.cat([torch.stack(heads), answers], dim=1)
    seen = torch.tensor(mask, device=model.device)
    seen = torch.cat([seen, seen.new_ones(answers.shape[:2])], dim=1)
    return model.logits(
        _last_places(batch, fed.shape[1]),
        inputs_embeds=fed,
        attention_mask=seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
    ).float()


def _plain_logits(
    model: "BaseModel", prompts: torch.Tensor, batch: RowBatch, position: Position
) -> torch.Tensor:
    """Return logits of rows padded at their end, which no token before it sees."""
    virtual = prompts.shape[1]
    longest = max(len(row.input_ids) + len(row.answer_ids) for row in batch.examples) + virtual
    is_row_dependent = model.fixed_rotations is not None and longest > model.fixed_rotations
    if is_row_dependent and len(batch.examples) > 1:
        rows = range(len(batch.examples))
        return torch.cat(
            [
                _plain_logits(model, prompts[row, None], batch.rows(slice(row, row + 1)), position)
                for row in rows
            ]
        )
    ids = torch.zeros((len(batch.examples), longest), dtype=torch.long)
    soft, places = (torch.zeros(ids.shape, dtype=torch.bool) for _ in range(2))
    for row, example in enumerate(batch.examples):
        before = len(example.input_ids) if position == "suffix" else 0
        end = len(example.input_ids) + virtual + len(example.answer_ids)
        soft[row, before : before + virtual] = True
        tokens = torch.tensor(example.input_ids + example.answer_ids)
        ids[row, :end][~soft[row, :end]] = tokens
        places[row, end - len(example.answer_ids) - 1 : end - 1] = True
    fed = model.embed(ids.to(model.device)).clone()
    fed[soft.to(model.device)] = prompts.flatten(0, 1)
    return model.logits(places.to(model.device), inputs_embeds=fed, **model.without_cache).float()


def _answer_embeddings(model: "BaseModel", batch: RowBatch) -> torch.Tensor:
    """Return the embeddings of all answer tokens but the last, which is not fed."""
    return model.embed(batch.answers[:, :-1].clamp(min=0))
