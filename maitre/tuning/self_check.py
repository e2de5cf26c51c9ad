"""Find out at load how a model can be passed through exactly: the self-check.

Fast passes keep the keys and values of inputs, and on a CPU use attention for few queries. Both
presume that each layer attends to all earlier tokens. Plain passes presume only that the model is
causal: rows are padded at their end, and all else is the model's own. What is used gives the loss
of the model's own pass over each row alone, or the model is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import platformdirs
import torch
import transformers

from maitre.errors import UserError
from maitre.files import write_text
from maitre.fingerprints import of_files, of_text
from maitre.tuning import attention
from maitre.tuning.config import Position
from maitre.tuning.encoding import EncodedExample
from maitre.tuning.forward import answer_losses
from maitre.tuning.rows import InputCache

if TYPE_CHECKING:
    from maitre.tuning.base_model import BaseModel

POSITIONS: tuple[Position, Position] = ("suffix", "prefix")
_LENGTHS = ((7, 2), (4, 1), (9, 3))
"""Input and answer tokens of the rows that are compared."""

_VIRTUAL_TOKENS = 3
_RELATIVE = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Differences that are rounding, as a share of the loss (or of the largest logit)."""

_GROWING = ("dynamic", "longrope")
"""Rotary embeddings that change for all tokens when a sequence is long."""


@dataclass(frozen=True)
class Passes:
    """How rows pass through a model.

    `attention` is the implementation in transformers' words (`None`: the one that it chose).
    `is_fast` says whether inputs can be cached and rows padded on the left.
    """

    attention: str | None
    is_fast: bool


PLAIN = Passes(attention=None, is_fast=False)


class _DiffersError(Exception):
    """A part of a pass differs from the model's own pass; the message names it."""


def checked_passes(model: "BaseModel", folder: Path) -> Passes:
    """Return the fastest exact passes, and make the model use their attention.

    The result is kept in the user's cache folder, by everything that it depends on.

    Raises:
        UserError: no pass is exact; the message says which part differs.
    """
    kept = _cache_file(model, folder)
    with suppress(OSError, ValueError, TypeError):
        passes = Passes(**json.loads(kept.read_text()))
        _use_attention(model, passes.attention)
        return passes
    with torch.random.fork_rng(devices=[]):
        passes = _exact_passes(model)
    # A cache that cannot be written costs the check at the next load.
    with suppress(OSError):
        write_text(kept, json.dumps(asdict(passes)))
    return passes


def is_full_attention(config: Any) -> bool:
    """Return whether, by its configuration, each layer attends to all earlier tokens as they are.

    Any window, chunk or soft cap, and any rotary embedding that depends on the length, says no.
    """
    values = config.to_dict()
    kinds = values.get("layer_types") or ()
    if any(kind != "full_attention" for kind in kinds):
        return False
    limits = [
        value
        for name, value in values.items()
        if any(part in name for part in ("window", "chunk", "attn_logit_softcap"))
        and name != "max_window_layers"
    ]
    return not any(limits) and context_of_fixed_rotations(config) is None


def context_of_fixed_rotations(config: Any) -> int | None:
    """Return the length above which rotary embeddings depend on it; `None` where they never do."""
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    of_layers = [rotary, *(part for part in rotary.values() if isinstance(part, dict))]
    growing = [part for part in of_layers if part.get("rope_type", part.get("type")) in _GROWING]
    if not growing:
        return None
    original = growing[0].get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(original or getattr(config, "max_position_embeddings", None) or 1)


def _cache_file(model: "BaseModel", folder: Path) -> Path:
    """Return the file named by weights, configuration, precision, libraries and this code."""
    code = [Path(__file__).with_name(f"{name}.py") for name in ("forward", "rows", "attention")]
    versions = [one.__version__ for one in (torch, transformers, peft)]
    facts = [
        *(model.hash, model.tokenizer_hash, str(model.dtype), model.device.type, *versions),
        of_files([folder / "config.json", Path(__file__), *code]),
    ]
    root = platformdirs.user_cache_path("maitre")
    return root / "self-checks" / f"{of_text(' '.join(facts))[:32]}.json"


def _exact_passes(model: "BaseModel") -> Passes:
    """Return the first passes that are exact, fast ones first."""
    chosen_by_library = model.model.config._attn_implementation
    try:
        rows = _rows(model)
        with _attention(model, "eager"):
            wanted = _OwnPasses.of(model, rows)
    except _DiffersError as error:
        raise UserError(f"base model {model.name}: cannot be tuned: {error}") from error
    except Exception as error:
        raise UserError(
            f"base model {model.name}: cannot be tuned: its own pass over input embeddings fails: "
            f"{_one_line(error)}"
        ) from error
    different = ""
    for passes in _candidates(model, chosen_by_library):
        try:
            _use_attention(model, passes.attention)
            _compare(model.passing(passes), rows, wanted)
        except Exception as error:
            # Whatever goes wrong in a pass is a reason against this pass.
            different = _one_line(error)
            _use_attention(model, chosen_by_library)
            continue
        return passes
    raise UserError(f"base model {model.name}: cannot be tuned: {different}")


def _candidates(model: "BaseModel", chosen_by_library: str) -> Iterator[Passes]:
    config = model.text_config
    if is_full_attention(config):
        fast = attention.register() if model.device.type == "cpu" else chosen_by_library
        yield Passes(fast, is_fast=True)
    # Other attention than eager leaves soft caps out; tiny scores would not show it.
    if chosen_by_library == "eager" or not getattr(config, "attn_logit_softcapping", None):
        yield Passes(chosen_by_library, is_fast=False)
    if chosen_by_library != "eager":
        yield Passes("eager", is_fast=False)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of random words, and a soft prompt."""

    examples: tuple[EncodedExample, ...]
    prompt: torch.Tensor


def _rows(model: "BaseModel") -> _Rows:
    generator = np.random.default_rng(0)
    known = min(len(model.tokenizer), model.embeddings.shape[0])
    words = sorted(set(range(known)) - set(model.tokenizer.all_special_ids)) or list(range(known))

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(int(word) for word in generator.choice(words, count))

    examples = tuple(EncodedExample(drawn(inputs), drawn(answers)) for inputs, answers in _LENGTHS)
    prompt = model.embed(torch.tensor(drawn(_VIRTUAL_TOKENS), device=model.device))
    # Between the words, as a tuned prompt is.
    return _Rows(examples, (prompt + prompt.roll(1, 0)).detach().float() / 2)


@dataclass(frozen=True, eq=False)
class _OwnPasses:
    """What the model itself says of the rows, each alone and without padding."""

    losses: dict[Position, torch.Tensor]
    gradients: dict[Position, torch.Tensor]

    @classmethod
    def of(cls, model: "BaseModel", rows: _Rows) -> "_OwnPasses":
        """Pass each row through the model.

        Raises:
            _DiffersError: tokens and their embeddings differ, or a token sees a later one.
        """
        _check_embeddings_and_order(model, rows)
        losses, gradients = {}, {}
        for position in POSITIONS:
            prompt = rows.prompt.clone().requires_grad_()
            each = torch.stack([_own_loss(model, row, prompt, position) for row in rows.examples])
            [gradient] = torch.autograd.grad(each.sum(), prompt)
            if not bool(torch.isfinite(each).all() and torch.isfinite(gradient).all()):
                raise _DiffersError("its own loss or gradient is not a number")
            losses[position], gradients[position] = each.detach(), gradient
        return cls(losses, gradients)


def _own_logits(model: "BaseModel", **inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.model(**inputs, **model.without_cache).logits
    return logits


def _own_loss(
    model: "BaseModel", row: EncodedExample, prompt: torch.Tensor, position: Position
) -> torch.Tensor:
    words = model.embed(torch.tensor(row.input_ids, device=model.device))
    answer = torch.tensor(row.answer_ids, device=model.device)
    soft = prompt.to(model.dtype)
    parts = [words, soft] if position == "suffix" else [soft, words]
    fed = torch.cat([*parts, model.embed(answer)])[None]
    logits = _own_logits(model, inputs_embeds=fed)[0, -len(answer) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), answer)


@torch.no_grad()
def _check_embeddings_and_order(model: "BaseModel", rows: _Rows) -> None:
    row = max(rows.examples, key=lambda example: len(example.input_ids))
    ids = torch.tensor([row.input_ids + row.answer_ids], device=model.device)
    of_ids = _own_logits(model, input_ids=ids)
    of_embeddings = _own_logits(model, inputs_embeds=model.embed(ids))
    _check_same("its embeddings (given as tokens and as vectors)", of_embeddings, of_ids, model)
    other = ids.clone()
    other[0, -1] = ids[0, 0] if ids[0, 0] != ids[0, -1] else ids[0, 1]
    of_other = _own_logits(model, inputs_embeds=model.embed(other))
    _check_same("its attention: a token sees later ones", of_other[:, :-1], of_ids[:, :-1], model)


def _compare(model: "BaseModel", rows: _Rows, wanted: _OwnPasses) -> None:
    """Raise `_DiffersError` unless our passes give the model's own losses and gradients."""
    tolerance = _RELATIVE[model.dtype]
    for position in POSITIONS:
        cache = InputCache(model, rows.examples, position, 1 << 30, [range(len(rows.examples))])
        batch = cache.batch(range(len(rows.examples)))
        prompt = rows.prompt.clone().requires_grad_()
        prompts = prompt.expand(len(rows.examples), -1, -1)
        losses, _ = answer_losses(model, prompts, batch, position)
        [gradient] = torch.autograd.grad(losses.sum(), prompt)
        own = wanted.losses[position]
        off = float((losses.detach() - own).abs().mean())
        if not off <= tolerance * max(1.0, float(own.mean())):
            part = _differing_part(model, rows, position, own)
            raise _DiffersError(
                f"{part} of a {position} prompt: loss {float(losses.mean()):.4f}; "
                f"the model's own is {float(own.mean()):.4f}"
            )
        slope = wanted.gradients[position]
        if not float((gradient - slope).norm()) <= 30 * tolerance * float(slope.norm()) + 1e-6:
            raise _DiffersError(f"the gradient of a {position} prompt differs from the model's own")


def _differing_part(model: "BaseModel", rows: _Rows, position: Position, own: torch.Tensor) -> str:
    """Say where the loss differs: a row alone, or only beside others."""
    cache = InputCache(model, rows.examples, position, 1 << 30)
    alone = torch.cat(
        [
            answer_losses(model, rows.prompt[None], cache.batch([place]), position)[0].detach()
            for place in range(len(rows.examples))
        ]
    )
    is_same_alone = torch.allclose(alone, own, rtol=_RELATIVE[model.dtype], atol=1e-4)
    return "padding changes the loss" if is_same_alone else "attention or head changes the loss"


def _check_same(part: str, found: torch.Tensor, wanted: torch.Tensor, model: "BaseModel") -> None:
    off = float((found.float() - wanted.float()).abs().mean())
    size = float(wanted.float().abs().mean())
    if not off <= 2 * _RELATIVE[model.dtype] * size:
        raise _DiffersError(f"{part}: logits differ by {off:.2g} where they are {size:.2g}")


def _use_attention(model: "BaseModel", name: str | None) -> None:
    """Switch the attention, where the model can."""
    if name == attention.NAME:
        attention.register()
    if name is not None and name != model.model.config._attn_implementation:
        with _without_library_warnings():
            model.model.set_attn_implementation(name)


@contextmanager
def _attention(model: "BaseModel", name: str) -> Iterator[None]:
    """Use an attention for a while; a model that cannot switch keeps its own."""
    before = model.model.config._attn_implementation
    with suppress(Exception):
        _use_attention(model, name)
    try:
        yield
    finally:
        _use_attention(model, before)


@contextmanager
def _without_library_warnings() -> Iterator[None]:
    """Leave out what transformers says about models that cannot switch."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    line = text if len(text) <= 200 else f"{text[:197]}..."
    return line if isinstance(error, _DiffersError) else f"{type(error).__name__}: {line}"
